//! The relay without sockets: clients, fewer model servers than clients, and bytes in flight that arrive in any pieces.

use crate::model::{Database, Model};
use crate::notation::{Names, messages};
use pglagoon::config::{Balance, Consistency, PoolMode, Routing, Unnamed};
use pglagoon::error::{ErrorSource, Report};
use pglagoon::prepared::Registry;
use pglagoon::routing::scope::Scopes;
use pglagoon::routing::{Lsn, Role, Route, Token};
use pglagoon::session::pin::PinRoom;
use pglagoon::session::{
    Edit, Edits, Farewell, Held, LOOKAHEAD, Owed, Own, Sequences, ServerState, Session, Settings, Value,
    Want, World,
};
use pglagoon::sql::{Cache, Catalog, Verdict};
use pglagoon::wire::SqlState;
use pglagoon::wire::backend::Severity;
use std::time::{Duration, Instant};

/// A catalog in which every name is harmless.
pub struct Harmless;

impl Catalog for Harmless {
    fn function(&self, _: Option<&str>, _: &str) -> Verdict {
        Verdict::Harmless
    }
    fn relation(&self, _: Option<&str>, _: &str) -> Verdict {
        Verdict::Harmless
    }
    fn operator(&self, _: &str) -> Verdict {
        Verdict::Harmless
    }
    fn type_name(&self, _: Option<&str>, _: &str) -> Verdict {
        Verdict::Harmless
    }
    fn version(&self) -> u64 {
        1
    }
}

/// Numbers that a seed determines.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// splitmix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

pub struct Server {
    pub name: String,
    pub role: Role,
    pub model: Model,
    state: ServerState,
    /// On the way to the server, and from it.
    to: Vec<u8>,
    from: Vec<u8>,
    /// Arrived from the server, not dealt with.
    inbox: Vec<u8>,
    holder: Option<usize>,
    /// Everything that it was sent.
    pub wire: Vec<u8>,
    /// Answers nothing.
    pub is_stuck: bool,
}

pub struct Client {
    pub name: String,
    pub session: Session,
    /// On the way to the pooler.
    pub network: Vec<u8>,
    /// Arrived, not dealt with.
    input: Vec<u8>,
    /// Everything that it was sent.
    pub view: Vec<u8>,
    held: Option<usize>,
    pub waiting: Option<Route>,
    /// How much must be there before the session is asked again.
    need: usize,
    pub closed: Option<Farewell>,
}

pub struct Relay {
    pub servers: Vec<Server>,
    pub clients: Vec<Client>,
    pub database: Database,
    pub rules: Routing,
    pub unnamed: Unnamed,
    scopes: Scopes,
    mode: PoolMode,
    statements: usize,
    generation: u64,
    classifier: Cache,
    registry: Registry,
    edits: Edits,
    start: Instant,
    pub clock: Duration,
    /// What went where, in words.
    pub trace: Option<Trace>,
    /// Whether there is a shared listener.
    pub has_listener: bool,
    /// The most bytes that one client's input buffer held.
    pub largest_input: usize,
}

#[derive(Default)]
pub struct Trace {
    pub lines: Vec<(String, Vec<String>)>,
    names: Names,
    partial: std::collections::BTreeMap<String, Vec<u8>>,
}

impl Trace {
    pub fn note(&mut self, words: String) {
        self.lines.push((words, Vec::new()));
    }

    fn add(&mut self, place: String, bytes: &[u8], is_frontend: bool) {
        let kept = self.partial.entry(place.clone()).or_default();
        kept.extend_from_slice(bytes);
        let bytes = std::mem::take(kept);
        let (all, read) = messages(&bytes);
        let names = &mut self.names;
        let words: Vec<String> = all
            .into_iter()
            .map(|(tag, body)| if is_frontend { names.frontend(tag, body) } else { names.backend(tag, body) })
            .collect();
        *self.partial.get_mut(&place).unwrap() = bytes[read..].to_vec();
        match self.lines.last_mut() {
            _ if words.is_empty() => {}
            Some((last, line)) if *last == place => line.extend(words),
            _ => self.lines.push((place, words)),
        }
    }
}

pub fn routing() -> Routing {
    Routing { consistency: Consistency::Eventual, balance: Balance::RoundRobin, ..Routing::default() }
}

impl Relay {
    /// `statements`: how many prepared statements one server connection keeps.
    pub fn new(mode: PoolMode, primaries: usize, replicas: usize, statements: usize) -> Self {
        let server = |(n, role): (usize, Role)| Server {
            name: format!("{}{n}", &role.as_str()[..1]),
            role,
            model: Model::new(role, &[]),
            state: ServerState::new(statements),
            to: Vec::new(),
            from: Vec::new(),
            inbox: Vec::new(),
            holder: None,
            wire: Vec::new(),
            is_stuck: false,
        };
        let primaries = (1..=primaries).map(|n| (n, Role::Primary));
        let replicas = (1..=replicas).map(|n| (n, Role::Replica));
        Relay {
            servers: primaries.chain(replicas).map(server).collect(),
            clients: Vec::new(),
            database: Database::default(),
            rules: routing(),
            unnamed: Unnamed::Keep,
            scopes: Scopes::default(),
            mode,
            statements,
            generation: 0,
            classifier: Cache::new(1000, [1; 16]),
            registry: Registry::new(1000, [2; 16]),
            edits: Edits::default(),
            start: Instant::now(),
            clock: Duration::ZERO,
            trace: None,
            has_listener: true,
            largest_input: 0,
        }
    }

    pub fn connect(&mut self, name: &str, startup: &[(String, String)]) -> usize {
        let base = Settings::from_startup(startup.iter().cloned());
        self.clients.push(Client {
            name: name.to_owned(),
            session: Session::new(self.mode, base, Own::default()),
            network: Vec::new(),
            input: Vec::new(),
            view: Vec::new(),
            held: None,
            waiting: None,
            need: 0,
            closed: None,
        });
        self.clients.len() - 1
    }

    // --- What may happen -------------------------------------------------------------------------------------------

    /// Up to `most` bytes of the client's arrive.
    pub fn arrive(&mut self, client: usize, most: usize) {
        let it = &mut self.clients[client];
        let count = most.min(it.network.len());
        it.input.extend(it.network.drain(..count));
        self.largest_input = self.largest_input.max(it.input.len());
        if it.closed.is_none() && it.waiting.is_none() && it.input.len() >= it.need {
            self.pump(client);
        }
    }

    /// The client goes on in another process, if it can now: with what is packed, and nothing else.
    pub fn hand_over(&mut self, client: usize) {
        let it = &mut self.clients[client];
        if it.closed.is_some() || it.held.is_some() || !it.session.is_portable() {
            return;
        }
        let packed = serde_json::to_vec(&it.session.pack()).expect("it can be written");
        let luggage = serde_json::from_slice(&packed).expect("it can be read");
        let (level, now) = (self.rules.consistency, self.start + self.clock);
        it.session = Session::unpack(luggage, self.mode, level, &mut self.registry, self.generation, now);
        (it.waiting, it.need) = (None, 0);
        if let Some(trace) = &mut self.trace {
            trace.note(format!("  {} is handed over", it.name));
        }
        self.pump(client);
    }

    /// A reload gives the pool another mode: who holds no server connection goes on in that.
    pub fn reload(&mut self, mode: PoolMode) {
        self.mode = mode;
        if let Some(trace) = &mut self.trace {
            trace.note(format!("  {} mode", mode.as_str()));
        }
        for client in 0..self.clients.len() {
            let it = &mut self.clients[client];
            if it.closed.is_none() && it.held.is_none() {
                it.session.moved(mode, self.start + self.clock);
                it.waiting = None;
                self.pump(client);
            }
        }
    }

    /// Up to `most` bytes arrive at the server. Answers how many.
    pub fn deliver(&mut self, server: usize, most: usize) -> usize {
        let it = &mut self.servers[server];
        let count = most.min(it.to.len());
        let bytes: Vec<u8> = it.to.drain(..count).collect();
        it.model.feed(&bytes, &mut self.database);
        it.from.append(&mut it.model.output());
        count
    }

    /// Up to `most` bytes arrive from the server. Answers how many.
    pub fn answer(&mut self, server: usize, most: usize) -> usize {
        let it = &mut self.servers[server];
        let count = most.min(it.from.len());
        it.inbox.extend(it.from.drain(..count));
        let client = it.holder.expect("a server that nobody holds has sent something");
        let now = self.start + self.clock;
        let want = loop {
            let it = &mut self.servers[server];
            let mut held = Held { role: it.role, node: server as u16, state: &mut it.state };
            let session = &mut self.clients[client].session;
            let want = session.on_backend(&it.inbox, &mut held, &mut self.registry, now, &mut self.edits);
            self.carry_answers(client, server);
            match want {
                Want::Tell(_) => self.clients[client].session.on_told(),
                want => break want,
            }
        };
        self.fulfil(client, want);
        if self.clients[client].waiting.is_none() && self.clients[client].closed.is_none() {
            self.pump(client);
        }
        count
    }

    /// A waiting client gets a server.
    pub fn grant(&mut self, client: usize, server: usize) {
        assert!(self.servers[server].holder.is_none() && self.clients[client].held.is_none());
        self.servers[server].holder = Some(client);
        self.clients[client].held = Some(server);
        self.clients[client].waiting = None;
        self.clients[client].session.on_leased();
        self.pump(client);
    }

    /// A waiting client waits in vain.
    pub fn refuse(&mut self, client: usize) {
        let report = Report::new(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS, "no server connection");
        let it = &mut self.clients[client];
        it.waiting = None;
        let want = it.session.on_lease_failed(&it.input, &report, &mut self.edits);
        self.carry_requests(client);
        self.fulfil(client, want);
        self.pump(client);
    }

    /// The servers that may serve this client now.
    pub fn candidates(&self, client: usize) -> Vec<usize> {
        let free = |role: Role| {
            (0..self.servers.len())
                .filter(|&n| self.servers[n].role == role && self.servers[n].holder.is_none())
                .collect()
        };
        let has_replica = self.servers.iter().any(|server| server.role == Role::Replica);
        match self.clients[client].waiting {
            Some(Route::Replica { .. }) if has_replica => free(Role::Replica),
            Some(_) => free(Role::Primary),
            None => Vec::new(),
        }
    }

    /// The server process dies, with what it had not sent. Answers the client that held it.
    pub fn kill_server(&mut self, server: usize) -> Option<usize> {
        self.replace(server);
        let client = self.servers[server].holder.take()?;
        self.clients[client].held = None;
        let want = self.clients[client].session.on_server_lost("killed", &mut self.edits);
        self.say(client, &self.edits.reply.clone());
        self.fulfil(client, want);
        if self.clients[client].closed.is_none() {
            self.pump(client);
        }
        Some(client)
    }

    /// The client is gone, without a word.
    pub fn kill_client(&mut self, client: usize) {
        if self.clients[client].closed.is_none() {
            self.close(client, Farewell::Abrupt);
        }
    }

    /// Everything that can happen happens, in a fixed order, until nothing more can.
    pub fn settle(&mut self) {
        loop {
            let before = self.progress();
            for client in 0..self.clients.len() {
                self.arrive(client, usize::MAX);
                if let Some(&server) = self.candidates(client).first() {
                    self.grant(client, server);
                }
            }
            for server in 0..self.servers.len() {
                if self.servers[server].is_stuck {
                    continue;
                }
                self.deliver(server, usize::MAX);
                if !self.servers[server].from.is_empty() {
                    self.answer(server, usize::MAX);
                }
            }
            if self.progress() == before {
                return;
            }
        }
    }

    /// One thing, chosen at random, happens. False: nothing could.
    pub fn step(&mut self, random: &mut Random) -> bool {
        #[derive(Clone, Copy)]
        enum Event {
            Arrive(usize),
            Deliver(usize),
            Answer(usize),
            Grant(usize),
        }
        let clients = self.clients.iter().enumerate();
        let mut events: Vec<Event> =
            clients.filter(|(_, it)| !it.network.is_empty()).map(|(n, _)| Event::Arrive(n)).collect();
        for (n, it) in self.servers.iter().enumerate() {
            events.extend((!it.to.is_empty()).then_some(Event::Deliver(n)));
            events.extend((!it.from.is_empty()).then_some(Event::Answer(n)));
        }
        events.extend((0..self.clients.len()).filter(|&n| !self.candidates(n).is_empty()).map(Event::Grant));
        if events.is_empty() {
            return false;
        }
        let most = match random.below(4) {
            0 => 1 + random.below(4),
            1 => 1 + random.below(40),
            _ => usize::MAX,
        };
        match events[random.below(events.len())] {
            Event::Arrive(n) => self.arrive(n, most),
            Event::Deliver(n) => _ = self.deliver(n, most),
            Event::Answer(n) => _ = self.answer(n, most),
            Event::Grant(n) => {
                let candidates = self.candidates(n);
                self.grant(n, candidates[random.below(candidates.len())]);
            }
        }
        true
    }

    /// Every server is free and everything has been dealt with.
    pub fn assert_nothing_leaked(&self) {
        for server in &self.servers {
            assert_eq!(server.holder, None, "{} is still held", server.name);
        }
        for client in &self.clients {
            assert!(client.waiting.is_none(), "{} still waits", client.name);
        }
    }

    /// Whether bytes from the server are under way.
    pub fn has_answers(&self, server: usize) -> bool {
        !self.servers[server].from.is_empty()
    }

    // --- What the session wants ------------------------------------------------------------------------------------

    fn progress(&self) -> (usize, usize, usize, usize) {
        let clients = self.clients.iter().map(|it| it.network.len() + it.input.len() + it.view.len()).sum();
        let servers = self.servers.iter().map(|it| it.to.len() + it.from.len() + it.inbox.len()).sum();
        let held = self.clients.iter().map(|it| it.held.map_or(0, |n| n + 1)).sum();
        (clients, servers, held, self.clients.iter().filter(|it| it.waiting.is_some()).count())
    }

    fn pump(&mut self, client: usize) {
        while self.clients[client].closed.is_none() && self.clients[client].waiting.is_none() {
            let it = &mut self.clients[client];
            let mut world = World {
                now: self.start + self.clock,
                rules: &self.rules,
                level: self.rules.consistency,
                lineage: None,
                servers: &(),
                scopes: &self.scopes,
                secret: b"secret",
                catalog: &Harmless,
                generation: self.generation,
                classifier: &mut self.classifier,
                registry: &mut self.registry,
                max_message: 1 << 20,
                client: client as u64,
                pin_room: PinRoom::Open,
                sequences: Sequences::Unused,
                unnamed: self.unnamed,
            };
            let held = it.held.map(|n| {
                let server = &mut self.servers[n];
                Held { role: server.role, node: n as u16, state: &mut server.state }
            });
            let want = it.session.on_client(&it.input, held, &mut world, &mut self.edits);
            it.need = 0;
            self.carry_requests(client);
            let again = matches!(want, Want::Return | Want::Replay(_) | Want::Listen(_) | Want::Tell(_));
            let it = &self.clients[client];
            if let (Want::Input, None) = (&want, it.held) {
                assert!(it.input.len() < LOOKAHEAD + 5, "{} bytes are waited on", it.input.len());
            }
            self.fulfil(client, want);
            if !again {
                return;
            }
        }
    }

    fn fulfil(&mut self, client: usize, want: Want) {
        match want {
            Want::Input => {}
            Want::Whole(count) => {
                assert!(count > self.clients[client].input.len(), "what is wanted is there");
                self.clients[client].need = count;
            }
            Want::Lease(route) => {
                assert!(self.clients[client].held.is_none(), "a second server");
                self.clients[client].waiting = Some(route);
            }
            Want::Listen(channel) => {
                let it = &mut self.clients[client];
                if let Some(trace) = &mut self.trace {
                    let answer = if self.has_listener { "is heard" } else { "is declined" };
                    trace.note(format!("  {} wants {channel}, which {answer}", it.name));
                }
                match self.has_listener {
                    true => it.session.on_listening(channel),
                    false => it.session.on_listen_declined(),
                }
            }
            Want::Tell(_) => {
                let it = &mut self.clients[client];
                if let Some(trace) = &mut self.trace {
                    trace.note(format!("  {} is told what was notified", it.name));
                }
                it.session.on_told();
            }
            Want::Position(_) => {
                let position = Token { system: 1, timeline: 1, position: Lsn(1) };
                self.clients[client].session.on_position(Ok(position));
                self.pump(client);
            }
            Want::Return => self.give_back(client),
            Want::Replay(_) => {
                if self.clients[client].held.is_some() {
                    self.give_back(client);
                }
                let it = &mut self.clients[client];
                self.generation += u64::from(it.session.outdated() == Some(self.generation));
                let request = it.session.again();
                it.input.splice(..0, request);
            }
            Want::Close(farewell) => self.close(client, farewell),
        }
    }

    fn carry_requests(&mut self, client: usize) {
        let edits = std::mem::take(&mut self.edits);
        let it = &mut self.clients[client];
        let mut out = Vec::new();
        for edit in edits.iter() {
            match edit {
                Edit::Forward(range) => out.extend_from_slice(&it.input[range]),
                Edit::Insert(bytes) => out.extend_from_slice(bytes),
            }
        }
        it.input.drain(..edits.consumed());
        if !out.is_empty() {
            let server = &mut self.servers[it.held.expect("bytes for a server, and none is held")];
            server.to.extend_from_slice(&out);
            server.wire.extend_from_slice(&out);
            if let Some(trace) = &mut self.trace {
                trace.add(format!("  {}> ", server.name), &out, true);
            }
        }
        self.say(client, &edits.reply);
        self.edits = edits;
    }

    fn carry_answers(&mut self, client: usize, server: usize) {
        let edits = std::mem::take(&mut self.edits);
        let mut out = Vec::new();
        for edit in edits.iter() {
            match edit {
                Edit::Forward(range) => out.extend_from_slice(&self.servers[server].inbox[range]),
                Edit::Insert(bytes) => out.extend_from_slice(bytes),
            }
        }
        self.servers[server].inbox.drain(..edits.consumed());
        assert!(edits.reply.is_empty(), "an answer to a server");
        self.generation += u64::from(edits.events.ddl);
        self.say(client, &out);
        self.edits = edits;
    }

    fn say(&mut self, client: usize, bytes: &[u8]) {
        let it = &mut self.clients[client];
        it.view.extend_from_slice(bytes);
        if let Some(trace) = self.trace.as_mut().filter(|_| !bytes.is_empty()) {
            trace.add(format!("  {}< ", it.name), bytes, false);
        }
    }

    /// The trace, for whoever has to find out what went wrong.
    pub fn told(&self) -> String {
        let lines = self.trace.iter().flat_map(|trace| &trace.lines);
        lines.fold(String::new(), |all, (place, words)| format!("{all}\n{place}{}", words.join(" | ")))
    }

    fn give_back(&mut self, client: usize) {
        let n = self.clients[client].held.take().expect("a server to give back");
        self.servers[n].holder = None;
        self.deliver(n, usize::MAX);
        let server = &self.servers[n];
        assert!(server.from.is_empty() && server.inbox.is_empty(), "unread answers on a returned server");
        assert!(server.model.is_quiescent(), "a returned server is not idle{}", self.told());
        assert!(server.model.listening.is_empty(), "a returned server listens{}", self.told());
        self.assert_known(n);
    }

    /// What the server has is what the state that is kept of it says.
    fn assert_known(&self, n: usize) {
        let server = &self.servers[n];
        for (name, value) in &server.model.settings {
            let known = match server.state.settings.value(name) {
                None => server.model.default_of(name),
                Some(Value::Text(text)) => text,
                Some(Value::Expression(text)) => text.trim_matches(['\'', '"']),
            };
            assert_eq!(value, known, "{name} on {}{}", server.name, self.told());
        }
        let ours = |name: &[u8]| name.starts_with(b"pglagoon_");
        let foreign: Vec<_> = server
            .model
            .statement_names()
            .filter(|name| !ours(name))
            .map(|name| name.escape_ascii().to_string())
            .collect();
        assert!(foreign.is_empty(), "{foreign:?} are left on {}", server.name);
        let held = server.model.statement_names().filter(|name| ours(name)).count();
        assert_eq!(held, server.state.statements.len(), "statements on {}{}", server.name, self.told());
    }

    fn close(&mut self, client: usize, farewell: Farewell) {
        if let Farewell::Fatal(report) = &farewell {
            let mut out = Vec::new();
            report.write(&mut out, Severity::Fatal);
            self.say(client, &out);
        }
        let it = &mut self.clients[client];
        if let Some(trace) = &mut self.trace {
            let why = match &farewell {
                Farewell::Terminated => "said goodbye",
                Farewell::Fatal(_) => "is told why and cut off",
                Farewell::Abrupt => "is gone",
                Farewell::HandedOver => "goes on elsewhere",
            };
            trace.note(format!("  {} {why}", it.name));
        }
        it.closed = Some(farewell);
        it.waiting = None;
        it.network.clear();
        let owed = it.session.owed();
        if let Some(server) = it.held.take() {
            self.servers[server].holder = None;
            self.recover(server, owed);
        }
    }

    /// A new connection takes this one's place.
    fn replace(&mut self, n: usize) {
        let it = &mut self.servers[n];
        it.model = Model::new(it.role, &[]);
        it.state = ServerState::new(self.statements);
        (it.to, it.from, it.inbox) = Default::default();
    }

    /// What becomes of a server whose client is gone: everything owed is awaited, then the session's state is removed.
    fn recover(&mut self, n: usize, owed: Owed) {
        if owed.broken {
            return self.replace(n);
        }
        let mut ready = owed.ready;
        let it = &mut self.servers[n];
        if owed.copy_in {
            it.to.extend(crate::notation::frontend("CopyFail gone"));
        }
        if owed.needs_sync {
            it.to.extend(crate::notation::frontend("Sync"));
            ready += 1;
        }
        self.deliver(n, usize::MAX);
        let it = &mut self.servers[n];
        let mut rest = std::mem::take(&mut it.inbox);
        rest.append(&mut it.from);
        let (all, read) = messages(&rest[owed.scanner.rest()..]);
        assert_eq!(read + owed.scanner.rest(), rest.len(), "a message is cut short");
        if all.iter().any(|(tag, _)| *tag == b'G') {
            // COPY has begun behind the client's back: what is then owed is not worth finding out.
            return self.replace(n);
        }
        let seen: Vec<u8> = all.iter().filter(|(tag, _)| *tag == b'Z').map(|(_, body)| body[0]).collect();
        assert_eq!(seen.len(), ready, "ReadyForQuery messages owed ({owed:?}){}", self.told());
        let in_block = seen.last().is_some_and(|&status| status != b'I');
        assert!(owed.discard || !in_block, "a transaction that nobody told of");
        if owed.discard {
            for text in ["rollback", "discard all"] {
                let text = crate::notation::frontend(&format!("Query {text}"));
                self.servers[n].model.feed(&text, &mut self.database);
            }
            self.servers[n].model.output();
            self.servers[n].state.discarded();
        }
        assert!(self.servers[n].model.is_quiescent(), "a recovered server is not idle");
        self.assert_known(n);
    }
}
