//! A lazy container's life can be followed from containerd's Prepare to the first read, in the
//! traces that a collector receives.
use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Result, ensure};
use bolide_e2e::{DaemonOptions, Lab};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

struct Receiver(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            // Nobody listens any more once the test is over.
            let _ = self.0.send(span);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector that lives as long as the runtime.
fn collector(runtime: &Runtime) -> Result<(SocketAddr, mpsc::UnboundedReceiver<Span>)> {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let (sender, spans) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(TraceServiceServer::new(Receiver(sender)));
    runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok((address, spans))
}

#[test]
#[ignore = "needs root, containerd and images: cargo xtask e2e"]
fn a_lazy_start_is_traced_from_prepare_to_the_first_read() -> Result<()> {
    let runtime = Runtime::new()?;
    let (address, mut received) = collector(&runtime)?;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{address}"));
    let options = DaemonOptions { environment: vec![endpoint], ..DaemonOptions::default() };
    let mut lab = Lab::start(&options)?;
    let (reference, image) = lab.push_estargz()?;
    lab.pull("default", &reference)?;
    lab.containerd.run_container("default", "bolide", &reference, &[])?;
    // The last spans are sent when the daemon ends.
    lab.daemon.stop()?;
    let mut spans = Vec::new();
    while let Ok(span) = received.try_recv() {
        spans.push(span);
    }

    let lazy = |span: &&Span| {
        span.name == "prepare" && span.attributes.iter().any(|held| held.key == "chain_id")
    };
    let prepares = spans.iter().filter(lazy).count();
    ensure!(prepares == image.layers.len(), "{prepares} lazy Prepares: {:?}", names(&spans));
    for (child, parent) in [
        ("open", "prepare"),
        ("toc", "prepare"),
        ("mount", "prepare"),
        ("fetch", "read_on_demand"),
        ("decode", "read_on_demand"),
    ] {
        ensure!(is_below(&spans, child, parent), "no {child} below {parent}: {:?}", names(&spans));
    }
    Ok(())
}

fn names(spans: &[Span]) -> HashMap<&str, usize> {
    spans.iter().fold(HashMap::new(), |mut counted, span| {
        *counted.entry(span.name.as_str()).or_default() += 1;
        counted
    })
}

/// Whether some span named `child` has an ancestor named `parent`.
fn is_below(spans: &[Span], child: &str, parent: &str) -> bool {
    let by_id: HashMap<_, _> = spans.iter().map(|span| (&span.span_id, span)).collect();
    spans.iter().filter(|span| span.name == child).any(|span| {
        let mut at = by_id.get(&span.parent_span_id);
        while let Some(above) = at {
            if above.name == parent {
                return true;
            }
            at = by_id.get(&above.parent_span_id);
        }
        false
    })
}
