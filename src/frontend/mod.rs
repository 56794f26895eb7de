//! Clients: how they come in, prove who they are, and talk to servers.
//!
//! [`listener`] accepts and hands each connection to a worker; [`handshake`] turns it into somebody who has logged in (or
//! a cancel request, or nobody); [`relay`] carries out what the client's [`crate::session::Session`] wants until it is
//! over. Clients that are silent sleep in the [`dormitory`]. [`passage`] hands clients to the next process. [`replication`] passes on bytes for those who replicate. [`clients`]
//! knows everybody who is logged in, [`journal`] what the log has of those who are not.

pub mod cancel;
pub mod clients;
pub mod dormitory;
pub mod handshake;
pub mod journal;
mod limits;
pub mod listener;
mod lookup;
mod opening;
mod outlet;
pub mod passage;
pub mod relay;
pub mod replication;

use crate::admin::Console;
use crate::auth::KeyRing;
use crate::cluster::{Database, Directory, Notes};
use crate::config::Config;
use crate::net::{Acceptor, Outbox, Shelf};
use crate::prepared::Registry;
use crate::session::Edits;
use arc_swap::ArcSwap;
use clients::Clients;
use dormitory::Dormitory;
use journal::Journal;
use limits::Limits;
use opening::Openings;
use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// What every connection from a client needs. One per process.
pub struct Frontend {
    /// What a reload replaces as a whole.
    pub access: ArcSwap<Access>,
    /// Everybody who is connected.
    pub clients: Clients,
    /// The databases.
    pub directory: Arc<Directory>,
    /// The virtual database.
    pub console: Arc<Console>,
    /// What the log has of those who are turned away.
    pub journal: Journal,
}

/// Who may come in, and how.
pub struct Access {
    /// The configuration.
    pub config: Arc<Config>,
    /// SCRAM keys of its users.
    pub keys: KeyRing,
    /// TLS, if it is offered.
    pub acceptor: Option<Acceptor>,
}

/// What the connections of one worker share. It stays on the worker's thread: there is nothing to lock.
pub struct Worker {
    /// Its number: where its sockets are at home.
    pub index: usize,
    /// Spare buffers.
    pub shelf: Shelf,
    /// What its tasks send in one turn.
    pub outbox: Outbox,
    /// What its clients have asked for at their beginning.
    openings: Openings,
    /// How long its logins may take.
    limits: Limits,
    /// Its clients that are silent.
    dormitory: Dormitory,
    desk: RefCell<Desk>,
    notebook: RefCell<BTreeMap<*const Database, Page>>,
}

/// What a worker has noted of one database.
struct Page {
    /// Keeps its address from becoming another's.
    of: Weak<Database>,
    notes: Rc<RefCell<Notes>>,
}

/// What a session works with while it looks at bytes.
pub struct Desk {
    /// Prepared statements.
    pub registry: Registry,
    /// The edits of the call under way.
    pub edits: Edits,
}

/// Prepared statements shared per worker.
const PREPARED: usize = 20_000;

/// Spare buffers kept per worker: 16 KiB each.
const SPARE_BUFFERS: usize = 256;

impl Worker {
    /// A worker; `key` is the process's secret for hashing texts.
    pub fn new(index: usize, key: [u8; 16], outbox: Outbox) -> Rc<Self> {
        let desk = Desk { registry: Registry::new(PREPARED, key), edits: Edits::default() };
        Rc::new(Worker {
            index,
            shelf: Shelf::new(SPARE_BUFFERS),
            outbox,
            openings: Openings::default(),
            limits: Limits::default(),
            dormitory: Dormitory::default(),
            desk: RefCell::new(desk),
            notebook: RefCell::default(),
        })
    }

    /// Ends logins that have taken too long, and sends clients to sleep that have been silent since the last look. To be called
    /// once a second.
    pub fn look_after(&self, now: Instant) {
        self.limits.look(now);
        self.dormitory.look();
    }

    /// The desk, for one call.
    pub fn desk(&self) -> RefMut<'_, Desk> {
        self.desk.borrow_mut()
    }

    /// What this worker has noted of a database.
    fn notes(&self, database: &Arc<Database>) -> Rc<RefCell<Notes>> {
        let mut notebook = self.notebook.borrow_mut();
        if let Some(page) = notebook.get(&Arc::as_ptr(database)) {
            return page.notes.clone();
        }
        notebook.retain(|_, page| page.of.strong_count() > 0);
        let page = Page { of: Arc::downgrade(database), notes: Rc::new(RefCell::new(Notes::new(database))) };
        notebook.entry(Arc::as_ptr(database)).or_insert(page).notes.clone()
    }
}

/// A client's place at its worker. What the client has posted is on its way, and nothing comes back to it, when this is
/// dropped: so it goes before the streams.
struct Seat {
    worker: Rc<Worker>,
    client: u64,
}

impl Seat {
    fn new(worker: Rc<Worker>, client: u64) -> Self {
        Seat { worker, client }
    }
}

impl std::ops::Deref for Seat {
    type Target = Worker;

    fn deref(&self) -> &Worker {
        &self.worker
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.outbox.forget(self.client);
    }
}
