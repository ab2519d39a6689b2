//! Where verified bytes rest: the layer store and the cache tiers
