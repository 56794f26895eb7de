//! Cancel requests from clients.
//!
//! A request is bound to the server connection that its client holds at this instant, and that connection is given to
//! nobody else until the server has dealt with the request: it can never hit another client's query. Whether anything was
//! cancelled, the client learns on its own connection alone.
//!
//! libpq and others take the end of the request's connection for the end of its effect: what they send next must not be hit.
//! So that connection stays open until the server has dealt with the request, also when it has to wait for its time.

use super::clients::{Aim, Aimed, ClientCard, Clients};
use crate::backend::{self, cancel::CANCEL_TIMEOUT};
use crate::net::Stream;
use crate::wire::ClientKey;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often is looked whether a request that waits has had its time.
const POLL: Duration = Duration::from_millis(5);

/// Somebody who wants a query cancelled.
pub struct Canceller {
    /// Its connection.
    pub stream: Stream,
    /// Whose query.
    pub key: ClientKey,
}

/// Passes its request on, and closes its connection when that has had its effect.
pub async fn serve(canceller: Canceller, clients: &Clients) {
    cancel(clients, &canceller.key).await;
    drop(canceller.stream);
}

/// Passes a cancel request on, if its key is right and its client has a server; returns when it has had its effect.
pub async fn cancel(clients: &Clients, key: &ClientKey) {
    let Some(card) = clients.find(key.pid).filter(|card| card.key.matches(key)) else {
        tracing::debug!(pid = key.pid, "cancel request with a key that nobody here has");
        return clients.ask_predecessor(key);
    };
    match card.aim() {
        Aimed::Nowhere => {}
        Aimed::At(aim) => deliver(aim, card.id).await,
        Aimed::Later => drop(timeout(CANCEL_TIMEOUT, settled(&card)).await),
    }
}

async fn settled(card: &ClientCard) {
    while card.has_cancel() {
        sleep(POLL).await;
    }
}

/// Sends a cancel request to the server that it is aimed at; `client` is for the log.
pub async fn deliver(aim: Aim, client: u64) {
    let Some(target) = aim.target() else { return };
    if let Err(error) = backend::cancel::cancel(target, CANCEL_TIMEOUT).await {
        tracing::warn!(client, %error, "a cancel request could not be passed on");
        aim.failed();
    }
}
