//! Why bytes are wanted.

/// Why bytes are wanted. Queues and limiters order work by it, the most urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A process is blocked on these bytes.
    #[default]
    OnDemand,
    /// A process will very likely be blocked on them soon.
    Prefetch,
    /// Filling the layer while nothing else needs the network.
    Background,
}

impl Priority {
    /// All priorities, the most urgent first.
    pub const ALL: [Self; 3] = [Self::OnDemand, Self::Prefetch, Self::Background];

    /// Short name for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Prefetch => "prefetch",
            Self::Background => "background",
        }
    }
}
