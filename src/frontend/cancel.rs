//! Cancel requests from clients.
//!
//! A request is bound to the server connection that its client holds at this instant, and that connection is given to
//! nobody else until the server has dealt with the request: it can never hit another client's query. Whether anything was
//! cancelled, the client learns on its own connection alone.

use super::clients::{Aim, Clients};
use crate::backend;
use crate::wire::ClientKey;

/// Passes a cancel request on, if its key is right and its client has a server.
pub async fn cancel(clients: &Clients, key: &ClientKey) {
    let Some(card) = clients.find(key.pid).filter(|card| card.key.matches(key)) else {
        tracing::debug!(pid = key.pid, "cancel request with a key that nobody here has");
        return clients.ask_predecessor(key);
    };
    let Some(aim) = card.aim() else { return };
    deliver(aim, card.id).await;
}

/// Sends a cancel request to the server that it is aimed at; `client` is for the log.
pub async fn deliver(aim: Aim, client: u64) {
    let Some(target) = aim.target() else { return };
    if let Err(error) = backend::cancel::cancel(target, backend::cancel::CANCEL_TIMEOUT).await {
        tracing::warn!(client, %error, "a cancel request could not be passed on");
        aim.failed();
    }
}
