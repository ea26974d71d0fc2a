//! Asks another process of Sixfold for its picture, over HTTP: one bounded request.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::picture::Picture;

/// How long it may take altogether.
const LIMIT: Duration = Duration::from_secs(3);
/// Longest answer that is read, bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The picture of the process that serves at `address` (HOST:PORT).
///
/// # Errors
/// When it does not answer with one in time.
pub(super) async fn status(address: &str) -> Result<Picture> {
    tokio::time::timeout(LIMIT, ask(address))
        .await
        .context("no answer in time")?
}

async fn ask(address: &str) -> Result<Picture> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/api/status")
        .header("host", address)
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        ensure!(
            answer.status() == StatusCode::OK,
            "it answered {}",
            answer.status()
        );
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        anyhow::Ok(serde_json::from_slice(&body)?)
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // It ends with the last answer, which may be at hand by then.
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}
