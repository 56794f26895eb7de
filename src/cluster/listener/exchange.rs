//! Who hears which channel, and what the server is still to be told of that. Plain data.
//!
//! ```text
//!   enter: a channel's first client --changes--> LISTEN is sent --answered--> it is heard, and whoever waits is told so
//!   leave: its last one ------------changes----> UNLISTEN is sent, and the channel is forgotten
//! ```
//! Changes are sent in the order in which they are answered here, so that a channel that is forgotten and asked for again
//! is heard only by the answer to its own, later LISTEN.

use super::mailbox::Mailbox;
use crate::error::Report;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a client that waits for a channel is told: whether it is heard.
pub type Answer = oneshot::Sender<bool>;

/// The index.
#[derive(Default)]
pub struct Exchange {
    channels: HashMap<Arc<str>, Channel>,
    clients: BTreeMap<u64, Client>,
    /// Channels that the server may have to be told of.
    changed: BTreeSet<Arc<str>>,
    /// Who waits until all is heard that was notified so far, by the number of the command that proves it; of none yet.
    catching_up: Vec<(Option<u64>, oneshot::Sender<()>)>,
    commands: u64,
    ids: u64,
}

struct Client {
    mailbox: Arc<Mailbox>,
    channels: BTreeSet<Arc<str>>,
}

#[derive(Default)]
struct Channel {
    clients: BTreeSet<u64>,
    waiting: Vec<Answer>,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Standing {
    #[default]
    New,
    /// By the LISTEN of this number.
    Asked(u64),
    Heard,
}

/// What the server is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Its number makes it one of its kind.
    Listen(Arc<str>, u64),
    /// Nobody hears it any more.
    Unlisten(Arc<str>),
    /// Whatever was notified before is heard before the answer. PostgreSQL 13 and later tell notifications before
    /// ReadyForQuery.
    CatchUp(u64),
}

impl Exchange {
    /// One more client, with no channel yet.
    pub fn subscribe(&mut self) -> (u64, Arc<Mailbox>) {
        self.ids += 1;
        let mailbox = Arc::new(Mailbox::default());
        self.clients.insert(self.ids, Client { mailbox: mailbox.clone(), channels: BTreeSet::new() });
        (self.ids, mailbox)
    }

    /// The client hears a channel from now on. If the server has not said so yet, what is answered tells when it has; an
    /// end of it without a word means that there is no listener.
    pub fn enter(&mut self, client: u64, channel: &str) -> Option<oneshot::Receiver<bool>> {
        let name: Arc<str> = match self.channels.get_key_value(channel) {
            Some((name, _)) => name.clone(),
            None => channel.into(),
        };
        self.clients.get_mut(&client)?.channels.insert(name.clone());
        let channel = self.channels.entry(name.clone()).or_default();
        channel.clients.insert(client);
        if channel.standing == Standing::Heard {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        channel.waiting.push(answer);
        self.changed.insert(name);
        Some(receiver)
    }

    /// Answers, or ends without a word, when all that was notified before this call is in the mailboxes.
    pub fn catch_up(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.catching_up.push((None, sender));
        receiver
    }

    /// All that was notified before this command is in the mailboxes.
    pub fn caught_up(&mut self, number: u64) {
        for (_, waits) in
            self.catching_up.extract_if(.., |(proof, _)| proof.is_some_and(|proof| proof <= number))
        {
            let _ = waits.send(());
        }
    }

    /// The client hears of its channels only those that are still meant.
    pub fn keep(&mut self, client: u64, is_meant: impl Fn(&str) -> bool) {
        let Some(client_of) = self.clients.get_mut(&client) else { return };
        let gone: Vec<_> = client_of.channels.iter().filter(|name| !is_meant(name)).cloned().collect();
        for name in gone {
            client_of.channels.remove(&name);
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.clients.remove(&client);
                self.changed.insert(name);
            }
        }
    }

    /// The client is gone.
    pub fn leave(&mut self, client: u64) {
        self.keep(client, |_| false);
        self.clients.remove(&client);
    }

    /// How many clients hear something.
    pub fn listeners(&self) -> usize {
        self.clients.values().filter(|client| !client.channels.is_empty()).count()
    }

    /// Whether nobody hears anything, and the server was told so.
    pub fn is_idle(&self) -> bool {
        self.channels.is_empty()
    }

    /// What the server is to be told now.
    pub fn commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        for name in std::mem::take(&mut self.changed) {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            match (channel.clients.is_empty(), channel.standing) {
                (false, Standing::New) => {
                    self.commands += 1;
                    channel.standing = Standing::Asked(self.commands);
                    commands.push(Command::Listen(name, self.commands));
                }
                (false, _) => {}
                (true, standing) => {
                    self.channels.remove(&name);
                    if standing != Standing::New {
                        commands.push(Command::Unlisten(name));
                    }
                }
            }
        }
        if self.catching_up.iter().any(|(proof, _)| proof.is_none()) {
            self.commands += 1;
            self.catching_up.iter_mut().for_each(|(proof, _)| *proof = proof.or(Some(self.commands)));
            commands.push(Command::CatchUp(self.commands));
        }
        commands
    }

    /// The server has answered a LISTEN.
    pub fn answered(&mut self, name: &str, number: u64, is_heard: bool) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        if channel.standing != Standing::Asked(number) {
            return;
        }
        // Who is refused leaves by itself.
        channel.standing = if is_heard { Standing::Heard } else { Standing::New };
        for answer in std::mem::take(&mut channel.waiting) {
            let _ = answer.send(is_heard);
        }
    }

    /// A notification, for everybody who hears its channel; answers how many they are.
    pub fn deliver(&self, channel: &str, message: &Arc<[u8]>) -> usize {
        let Some(channel) = self.channels.get(channel) else { return 0 };
        let mailboxes = channel.clients.iter().filter_map(|client| self.clients.get(client));
        mailboxes.map(|client| client.mailbox.put(message)).count()
    }

    /// There is no listener any more: who hears something is told why it ends, and who waits that there is none.
    pub fn end(&mut self, why: &Report) {
        for client in self.channels.drain().flat_map(|(_, channel)| waited(channel)) {
            if let Some(client) = self.clients.get_mut(&client) {
                client.mailbox.close(why);
            }
        }
        self.clients.values_mut().for_each(|client| client.channels.clear());
        self.catching_up.clear();
        self.changed.clear();
    }
}

/// The clients of a channel that the server has said to be heard; all others are still waiting for that.
fn waited(channel: Channel) -> BTreeSet<u64> {
    match channel.standing {
        Standing::Heard => channel.clients,
        Standing::New | Standing::Asked(_) => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorSource;
    use crate::wire::SqlState;

    fn listen(number: u64) -> Vec<Command> {
        vec![Command::Listen("a".into(), number)]
    }

    #[test]
    fn the_first_asks_and_the_last_ends_it() {
        let mut exchange = Exchange::default();
        let ((one, first), (two, second)) = (exchange.subscribe(), exchange.subscribe());
        let mut waits = exchange.enter(one, "a").unwrap();
        assert_eq!(exchange.commands(), listen(1));
        let mut also = exchange.enter(two, "a").unwrap();
        assert_eq!(exchange.commands(), []);
        exchange.answered("a", 1, true);
        assert_eq!((waits.try_recv(), also.try_recv()), (Ok(true), Ok(true)));
        assert!(exchange.enter(two, "a").is_none());
        assert_eq!(exchange.deliver("a", &b"x"[..].into()), 2);
        assert!(first.take().is_some() && second.take().is_some());
        exchange.leave(one);
        assert_eq!((exchange.commands(), exchange.listeners()), (vec![], 1));
        exchange.keep(two, |_| false);
        assert_eq!(exchange.commands(), [Command::Unlisten("a".into())]);
        assert!(exchange.is_idle());
        assert_eq!(exchange.deliver("a", &b"x"[..].into()), 0);
    }

    #[test]
    fn a_channel_that_is_asked_for_again_waits_for_its_own_answer() {
        let mut exchange = Exchange::default();
        let (client, _) = exchange.subscribe();
        let _ = exchange.enter(client, "a");
        assert_eq!(exchange.commands(), listen(1));
        exchange.keep(client, |_| false);
        assert_eq!(exchange.commands(), [Command::Unlisten("a".into())]);
        let mut waits = exchange.enter(client, "a").unwrap();
        assert_eq!(exchange.commands(), listen(2));
        exchange.answered("a", 1, true);
        assert!(waits.try_recv().is_err(), "an UNLISTEN is still on its way");
        exchange.answered("a", 2, true);
        assert_eq!(waits.try_recv(), Ok(true));
    }

    #[test]
    fn who_catches_up_waits_for_a_proof_of_its_own() {
        let mut exchange = Exchange::default();
        let mut first = exchange.catch_up();
        assert_eq!(exchange.commands(), [Command::CatchUp(1)]);
        let mut second = exchange.catch_up();
        assert_eq!(exchange.commands(), [Command::CatchUp(2)]);
        assert_eq!(exchange.commands(), []);
        exchange.caught_up(1);
        assert_eq!((first.try_recv(), second.try_recv().is_err()), (Ok(()), true));
        exchange.end(&Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, "gone"));
        assert_eq!(second.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn the_end_is_told_to_those_who_heard_and_those_who_wait() {
        let mut exchange = Exchange::default();
        let ((one, heard), (two, waits)) = (exchange.subscribe(), exchange.subscribe());
        let _ = exchange.enter(one, "a");
        let _ = exchange.commands();
        exchange.answered("a", 1, true);
        let mut answer = exchange.enter(two, "b").unwrap();
        let why = Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, "gone");
        exchange.end(&why);
        assert_eq!((heard.end(), waits.end()), (Some(why), None));
        assert!(answer.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(exchange.is_idle());
    }
}
