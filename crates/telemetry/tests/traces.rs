//! Traces reach a collector that speaks OTLP/gRPC, and no collector can hold the process up.
use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bolide_telemetry::{LogFormat, OtlpOptions, Telemetry, TelemetryGuard, TelemetryOptions};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use tracing::Dispatch;

/// What hangs fails; nothing here takes this long.
const HUNG: Duration = Duration::from_mins(1);

/// Hands every request on.
struct Receiver(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector on a port of its own.
struct Collector {
    address: SocketAddr,
    received: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (sender, received) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = Server::builder()
            .add_service(TraceServiceServer::new(Receiver(sender)))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                let _ = stopped.await;
            });
        let serving = tokio::spawn(async move { serve.await.expect("serves") });
        Self { address, received, stop, serving }
    }

    /// Everything that was sent until now, when nobody sends any more.
    async fn finish(mut self) -> Vec<ExportTraceServiceRequest> {
        let _ = self.stop.send(());
        timeout(HUNG, self.serving).await.expect("ends").expect("no panic");
        let mut all = Vec::new();
        while let Some(request) = self.received.recv().await {
            all.push(request);
        }
        all
    }
}

fn set_up(filter: &str, vars: &[(&str, String)]) -> (Dispatch, TelemetryGuard) {
    let vars: HashMap<_, _> = vars.iter().cloned().collect();
    let options = TelemetryOptions {
        filter: filter.to_owned(),
        format: LogFormat::Text,
        otlp: OtlpOptions::from_vars(|name| vars.get(name).cloned()),
    };
    Telemetry::new(&options, std::io::sink, false).expect("sets up").into_parts()
}

fn endpoint(address: SocketAddr) -> (&'static str, String) {
    ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
}

fn make_spans(dispatch: &Dispatch) {
    tracing::dispatcher::with_default(dispatch, || {
        let mount = tracing::info_span!(target: "bolide_test", "mount", layer = "sha256:1");
        let _mount = mount.enter();
        let read = tracing::debug_span!(target: "bolide_test", "read_on_demand", offset = 7_u64);
        let _read = read.enter();
        drop(tracing::debug_span!(target: "h2::connection", "chatter"));
    });
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

fn spans(requests: &[ExportTraceServiceRequest]) -> Vec<Span> {
    let resources = requests.iter().flat_map(|request| &request.resource_spans);
    let scopes = resources.flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| scope.spans.iter().cloned()).collect()
}

#[tokio::test]
async fn spans_arrive_with_names_parents_and_attributes() {
    let collector = Collector::start().await;
    // Traces are sent whatever is logged.
    let (dispatch, guard) = set_up("error", &[endpoint(collector.address)]);
    assert!(guard.sends_traces());
    make_spans(&dispatch);
    timeout(HUNG, guard.shutdown(HUNG)).await.expect("bounded");
    let requests = collector.finish().await;
    let spans = spans(&requests);
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["mount", "read_on_demand"], "our own and no others");
    let find = |name| spans.iter().find(|span| span.name == name).expect("listed above");
    let (mount, read) = (find("mount"), find("read_on_demand"));
    assert_eq!(read.parent_span_id, mount.span_id);
    assert_eq!(read.trace_id, mount.trace_id);
    assert!(mount.parent_span_id.is_empty());
    assert_eq!(text(&mount.attributes, "layer").as_deref(), Some("sha256:1"));
    assert_eq!(text(&read.attributes, "offset").as_deref(), Some("7"));
    let resource = requests[0].resource_spans[0].resource.as_ref().expect("a resource");
    assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("bolide"));
    assert!(text(&resource.attributes, "service.version").is_some());
}

#[tokio::test]
async fn the_operator_names_the_service() {
    let collector = Collector::start().await;
    let vars = [endpoint(collector.address), ("OTEL_SERVICE_NAME", "node-7".to_owned())];
    let (dispatch, guard) = set_up("info", &vars);
    make_spans(&dispatch);
    timeout(HUNG, guard.shutdown(HUNG)).await.expect("bounded");
    let requests = collector.finish().await;
    let resource = requests[0].resource_spans[0].resource.as_ref().expect("a resource");
    assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("node-7"));
}

#[tokio::test]
async fn nothing_is_sent_unless_asked_for() {
    let collector = Collector::start().await;
    let off = ("OTEL_SDK_DISABLED", "true".to_owned());
    for vars in [vec![], vec![endpoint(collector.address), off]] {
        let (dispatch, guard) = set_up("trace", &vars);
        assert!(!guard.sends_traces());
        make_spans(&dispatch);
        guard.shutdown(HUNG).await;
    }
    assert!(collector.finish().await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_spoken_is_said_and_stops_nobody() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[not an address"),
    ] {
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317".to_owned()),
            (name, value.to_owned()),
        ];
        let (dispatch, guard) = set_up("info", &vars);
        assert!(
            guard
                .problem()
                .is_some_and(|problem| problem.contains("OTEL") || problem.contains("endpoint"))
        );
        make_spans(&dispatch);
        guard.shutdown(HUNG).await;
    }
}

#[tokio::test]
async fn a_collector_that_is_gone_or_silent_holds_nobody_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let silent = listener.local_addr().expect("bound");
    let gone = {
        let dropped = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        dropped.local_addr().expect("bound")
    };
    for address in [gone, silent] {
        let (dispatch, guard) = set_up("info", &[endpoint(address)]);
        // Far more than the queue holds.
        for _ in 0..10_000 {
            make_spans(&dispatch);
        }
        let shutdown = guard.shutdown(Duration::from_millis(50));
        timeout(HUNG, shutdown).await.expect("bounded");
    }
}
