//! Serves HTTP/1.1 on a listener, with TLS or without. Unlike with `axum::serve`, a handler can close the connection without an answer.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Pause after a failed accept, usually because of a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connection must be closed without an answer.
#[derive(Debug)]
pub(super) struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl std::error::Error for Dropped {}

/// Serves until the future is dropped, which closes every connection. With an acceptor, clients must speak TLS.
pub(super) async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handler: H,
) -> Infallible
where
    H: Fn(Request<Body>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Dropped>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, tls.clone(), handler.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection<H, F>(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, handler: H)
where
    H: Fn(Request<Body>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Dropped>> + Send + 'static,
{
    // Without this option, small answers wait for the peer's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    match tls {
        None => answer(stream, peer, handler).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => answer(stream, peer, handler).await,
            Err(error) => tracing::debug!(%error, %peer, "no TLS with a client"),
        },
    }
}

/// Answers the requests of one connection.
async fn answer<H, F>(stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, handler: H)
where
    H: Fn(Request<Body>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Dropped>> + Send + 'static,
{
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        handler(request.map(Body::new), peer)
    });
    let served = http1::Builder::new()
        // Clients can keep an idle connection without a time limit.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, %peer, "connection ended");
    }
}
