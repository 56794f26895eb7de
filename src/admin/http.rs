//! The HTTP endpoints: `/metrics`, `/health` and `/ready`.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` | Prometheus text ([`super::exposition`]) |
//! | `/health` | 200 while the process serves |
//! | `/ready` | 200, or 503 while draining, paused, or without one database that can be served; says why for each |
//! | `/ready?database=NAME` | the same for one database (a space is `%20`); 404 if it is not configured |
//!
//! Connections, headers and time are bounded; request bodies are not read.

use super::{Observed, Readiness, Standing, State, exposition};
use crate::sql::comment;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send a request's head, or stay idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest life of a connection: bounds a client that reads slowly.
const LIFETIME: Duration = Duration::from_secs(60);

/// How long responses under way may take to be read when the listener closes.
const GRACE: Duration = Duration::from_secs(2);

/// How long to wait after a failed accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Serves until `shutdown` is done, then lets the responses under way end.
pub async fn serve(listener: TcpListener, observed: Arc<dyn Observed>, shutdown: impl Future) {
    let (ending, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Every branch is cancel safe: a dropped accept has taken no connection, a dropped join no result.
        tokio::select! {
            _ = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&observed), ending.subscribe()));
                }
                Err(error) => {
                    tracing::warn!(%error, "http: accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    drop(ending);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, all).await;
}

async fn connection(stream: TcpStream, observed: Arc<dyn Observed>, mut ending: watch::Receiver<()>) {
    let service = service_fn(move |request: Request<_>| {
        let response = respond(&request, &*observed);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let served = async {
        let mut connection = pin!(connection);
        // Both branches are cancel safe: `connection` stays, and `changed` ends for good when the sender is gone.
        tokio::select! {
            served = &mut connection => return served,
            _ = ending.changed() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LIFETIME, served).await {
        tracing::debug!(%error, "http: connection");
    }
}

/// Answers one request. Pure.
fn respond<B>(request: &Request<B>, observed: &dyn Observed) -> Response<Full<Bytes>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/metrics" | "/health" | "/ready" if !is_read => refuse_method(),
        "/metrics" => answer(StatusCode::OK, exposition::CONTENT_TYPE, exposition::text(observed)),
        "/health" => health(observed),
        "/ready" => ready(observed, request.uri().query()),
        _ => json_answer(StatusCode::NOT_FOUND, &json!({ "error": "not found" })),
    }
}

fn health(observed: &dyn Observed) -> Response<Full<Bytes>> {
    let process = observed.process();
    let body = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "state": state(process.state),
        "clients": process.clients,
        "max_clients": process.max_clients,
    });
    json_answer(StatusCode::OK, &body)
}

fn ready(observed: &dyn Observed, query: Option<&str>) -> Response<Full<Bytes>> {
    let (mut readiness, state_now) = (observed.readiness(), observed.process().state);
    if let Some(name) = query.and_then(|query| query.strip_prefix("database=")) {
        let name = comment::decoded(name.as_bytes());
        readiness.databases.retain(|database| database.name.as_bytes() == name);
        if readiness.databases.is_empty() {
            return json_answer(StatusCode::NOT_FOUND, &json!({ "error": "no such database is configured" }));
        }
    }
    let why = why_not(&readiness, state_now);
    let databases = readiness.databases.iter().map(|database| {
        let about = json!({ "status": database.standing.as_str(), "why": database.why });
        (database.name.clone(), about)
    });
    let body = json!({
        "ready": why.is_none(),
        "why": why.unwrap_or_default(),
        "state": state(state_now),
        "databases": databases.collect::<serde_json::Map<_, _>>(),
    });
    json_answer(if why.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

/// One database that fails does not take the others' traffic away: only without any is nothing ready.
fn why_not(readiness: &Readiness, state: State) -> Option<&'static str> {
    let are_all = |of: &[Standing]| readiness.databases.iter().all(|one| of.contains(&one.standing));
    match state {
        State::Draining => Some("shutting down"),
        State::Paused => Some("paused"),
        State::Active if are_all(&[Standing::Unavailable]) => Some("no database can be served"),
        State::Active if are_all(&[Standing::Paused]) => Some("paused"),
        State::Active if are_all(&[Standing::Unavailable, Standing::Paused]) => {
            Some("no database can be served")
        }
        State::Active => None,
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Paused => "paused",
        State::Draining => "draining",
    }
}

fn refuse_method() -> Response<Full<Bytes>> {
    let body = json!({ "error": "only GET and HEAD are answered here" });
    let mut response = json_answer(StatusCode::METHOD_NOT_ALLOWED, &body);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    answer(status, "application/json", format!("{body}\n").into_bytes())
}

fn answer(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::Fake;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    /// Serves `fake`, sends one request and answers status line, headers and body.
    async fn ask(fake: Fake, request: &str) -> (String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, Arc::new(fake), stopped));
        let asked = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            stop.send(()).unwrap();
            server.await.unwrap();
            answer
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await.expect("an answer in time");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    async fn get(fake: Fake, path: &str) -> (u16, serde_json::Value) {
        let (head, body) = ask(fake, &format!("GET {path} HTTP/1.1")).await;
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(&body).unwrap())
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let (head, body) = ask(Fake::default(), "GET /metrics HTTP/1.1").await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("# TYPE pglagoon_query_seconds histogram"), "{body}");
    }

    #[tokio::test]
    async fn health_is_200_while_the_process_serves() {
        let (status, body) = get(Fake { state: State::Draining, ..Fake::default() }, "/health").await;
        assert_eq!((status, &body["status"], &body["state"]), (200, &json!("ok"), &json!("draining")));
    }

    #[tokio::test]
    async fn ready_says_why_not() {
        let (status, body) = get(Fake::default(), "/ready").await;
        assert_eq!((status, &body["ready"]), (200, &json!(true)));

        let (status, body) =
            get(Fake { standing: Standing::Degraded, ..Fake::default() }, "/ready?database=app").await;
        assert_eq!((status, &body["databases"]["app"]["status"]), (200, &json!("degraded")));
        assert_eq!(get(Fake::default(), "/ready?database=%61p%70").await.0, 200);

        let (status, body) = get(Fake { standing: Standing::Unavailable, ..Fake::default() }, "/ready").await;
        assert_eq!((status, &body["why"]), (503, &json!("no database can be served")));
        assert_eq!(body["databases"]["app"]["why"], json!("connection refused"));

        let paused = Fake { standing: Standing::Paused, ..Fake::default() };
        let (status, body) = get(paused, "/ready?database=app").await;
        assert_eq!((status, &body["why"]), (503, &json!("paused")));
        assert_eq!(body["databases"]["app"]["status"], json!("paused"));

        for (state, why) in [(State::Draining, "shutting down"), (State::Paused, "paused")] {
            let (status, body) = get(Fake { state, ..Fake::default() }, "/ready").await;
            assert_eq!((status, &body["why"]), (503, &json!(why)));
        }
        assert_eq!(get(Fake::default(), "/ready?database=nosuch").await.0, 404);
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        assert_eq!(get(Fake::default(), "/").await.0, 404);
        let (head, _) = ask(Fake::default(), "POST /metrics HTTP/1.1").await;
        assert!(head.starts_with("HTTP/1.1 405"), "{head}");
        assert!(head.contains("allow: GET, HEAD"), "{head}");
        let (head, body) = ask(Fake::default(), "HEAD /health HTTP/1.1").await;
        assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head} {body}");
        let (head, _) = ask(Fake::default(), "garbage").await;
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_dropped_and_does_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, Arc::new(Fake::default()), stopped));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0);
        assert!(begun.elapsed() <= HEADER_TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());

        let _idle = TcpStream::connect(address).await.unwrap();
        stop.send(()).unwrap();
        server.await.unwrap();
    }
}
