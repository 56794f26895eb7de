//! The extended protocol: names of the client's become names that all servers share.

use super::consequences::has_consequence;
use super::refuse::hidden_own_setting;
use super::*;
use crate::prepared::Analysis;

impl Session {
    /// What may become of the unnamed statement of a Parse that begins a request. Another may stand in its stead only if the
    /// client cannot tell: whatever fails because that one is older must be able to run again as it came. So it is for a
    /// request that binds it once, is all here, stands outside of a transaction block and has nothing behind it.
    pub(super) fn unnamed_in(&self, span: Span<FrontendTag>, bytes: &[u8], world: &World<'_>) -> Unnamed {
        let may_stand_in = span.tag() == FrontendTag::PARSE
            && world.unnamed == Unnamed::Keep
            && self.pace == Pace::OneByOne
            && self.stands_alone()
            && !self.runs_again()
            && self.settings.share_analysis()
            && bytes.len() <= replay::MAX_KEPT
            && is_one_execution(bytes);
        if may_stand_in { Unnamed::Keep } else { Unnamed::Forward }
    }

    pub(super) fn parse(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        unnamed: Unnamed,
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let Some(parse) = Parse::new(span.body(bytes)) else {
            return self.refuse(span, Report::protocol("invalid Parse message"), Some(held), edits);
        };
        let mut named = self.parsed(&parse, world);
        if let Some(report) = hidden_own_setting(&named.statement, parse.text) {
            return self.fail_on_server(span, &report, held, edits);
        }
        if self.naming == Naming::Own && !parse.name.is_empty() {
            edits.events.client_parses += 1;
            // The connection is the client's own: names stay as they are, and the server says whether they are good. The unnamed
            // statement does not outlive what the server is asked on our own account.
            self.replies.push(Request::Parse, Action::Forward, None);
            edits.forward(span.have());
            self.statements.get_or_insert_default().insert(parse.name, named);
            return Flow::Done;
        }
        if !parse.name.is_empty()
            && self.statements.as_ref().is_some_and(|all| all.find(parse.name).is_some())
        {
            return self.duplicate(span, parse, edits);
        }
        if self.may_fail_before() && !parse.name.is_empty() {
            // In an aborted transaction the server refuses it; whether it is one is not known yet.
            self.head = Some(Head::Parse(named));
            return Flow::Stop(Want::Input);
        }
        edits.events.client_parses += 1;
        self.lend(&named.statement, || parse.text, edits);
        self.set_apart(&mut named.prepared, world);
        let prepared = named.prepared.clone();
        let before = self.statements.get_or_insert_default().insert(parse.name, named);
        let renamed = Renamed { name: parse.name.into(), before };
        let place = match unnamed {
            Unnamed::Keep if parse.name.is_empty() => place_unnamed(&prepared, held, world),
            _ => None,
        };
        if let Some(place) = place {
            edits.skip(span.have());
            self.parse_kept(place, &prepared, renamed, held, edits);
            return Flow::Done;
        }
        if parse.name.is_empty() {
            edits.events.server_parses += 1;
            held.state.statements.set_unnamed(Some(prepared.id));
            self.replies.push(
                Request::Parse,
                Action::Forward,
                Some(Then::ParsedUnnamed { name: Some(renamed) }),
            );
            edits.forward(span.have());
            return Flow::Done;
        }
        edits.skip(span.have());
        let is_there = held.state.statements.uses(prepared.id);
        if is_there && self.transaction.status() == TransactionStatus::Failed {
            // In an aborted transaction most statements are refused: the server shall say which.
            edits.insert(|out| frontend::write_close_statement(out, &prepared.server_name));
            self.replies.push(Request::Close, Action::Swallow, Some(Then::Evicted(prepared.clone())));
            let then = Then::Parsed { id: prepared.id, name: Some(renamed) };
            self.put_on_server(&prepared, Action::Forward, then, held, edits);
        } else if is_there {
            let action = Action::Complete(BackendTag::PARSE_COMPLETE);
            self.replies.push(Request::Parse, action, Some(Then::Named(renamed)));
        } else {
            let then = Then::Parsed { id: prepared.id, name: Some(renamed) };
            self.put_on_server(&prepared, Action::Forward, then, held, edits);
        }
        Flow::Done
    }

    /// A statement that the server keeps stands in for the client's unnamed one, up to the end of the batch.
    fn parse_kept(
        &mut self,
        place: Place,
        prepared: &Arc<Prepared>,
        renamed: Renamed,
        held: &mut Held<'_>,
        edits: &mut Edits,
    ) {
        let name = Some(renamed);
        match place {
            Place::Taken => {
                let action = Action::Complete(BackendTag::PARSE_COMPLETE);
                self.replies.push(Request::Parse, action, Some(Then::Kept { put: None, name }));
            }
            Place::Free => {
                let then = Then::Kept { put: Some(prepared.id), name };
                self.put_on_server(prepared, Action::Forward, then, held, edits);
            }
        }
    }

    /// Whether an earlier batch or Query that is not answered may turn out to have aborted a transaction block.
    fn may_fail_before(&self) -> bool {
        (self.transaction.is_open() || self.tenure.may_be_in_block) && self.replies.ready_owed() > 0
    }

    /// What the Parse at the head of the input prepares: as it was routed, unless the catalog or the settings have changed
    /// since.
    pub(super) fn parsed(&mut self, parse: &Parse<'_>, world: &mut World<'_>) -> Named {
        let settings = self.settings.analysis();
        match self.head.take() {
            Some(Head::Parse(named))
                if named.version == world.stamp()
                    && named.prepared.analysis == Analysis::Shared(settings) =>
            {
                named
            }
            _ => world.prepare(parse, settings),
        }
    }

    /// The client's name is taken. The server shall say so itself, in its own words and with its own consequences for the
    /// transaction: it is given an empty statement of that name first.
    fn duplicate(&mut self, span: Span<FrontendTag>, parse: Parse<'_>, edits: &mut Edits) -> Flow {
        self.place_empty(parse.name, edits);
        self.tenure.add_stray(parse.name);
        self.replies.push(Request::Parse, Action::Forward, None);
        edits.forward(span.have());
        Flow::Done
    }

    pub(super) fn bind(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let body = span.body(bytes);
        let Some(bind) = Bind::new(body) else {
            return self.refuse(span, Report::protocol("invalid Bind message"), Some(held), edits);
        };
        if bind.statement.is_empty() && self.replies.has_unnamed_of_earlier_batch() {
            return Flow::Stop(Want::Input);
        }
        edits.events.binds += 1;
        let named = self.find_for(bind.statement, held, world);
        let is_own = self.naming == Naming::Own;
        let is_named = !bind.statement.is_empty();
        let is_kept = !is_named && self.replies.has_kept();
        match &named {
            Some(named) => {
                self.sent(&named.statement, || &named.prepared.text, held, world, edits);
                self.lend(&named.statement, || &named.prepared.text, edits);
                self.open_portal(bind.portal, named);
                if is_named && !is_own {
                    self.ensure(&named.prepared, held, edits);
                } else if !is_named && !is_kept {
                    self.ensure_unnamed(&named.prepared, held, edits);
                }
            }
            None if !is_named => self.close_foreign_unnamed(held, edits),
            // The server may know it, by an SQL-level PREPARE.
            None => self.replies.risk(Stake::WORK),
        }
        if let (None, Some(portals)) = (&named, &mut self.tenure.portals) {
            portals.remove(bind.portal);
        }
        self.replies.push(Request::Bind, Action::Forward, None);
        if let Some(named) = &named {
            self.replies.note(named.statement.reason);
        }
        match named.filter(|_| !is_own && (is_named || is_kept)) {
            None => edits.forward(span.have()),
            Some(named) => {
                let rest = span.len() - HEADER - bind.head;
                let fits =
                    edits.insert(|out| Bind::write_head(out, bind.portal, &named.prepared.server_name, rest));
                if !fits {
                    return Flow::Stop(fatal(Report::protocol("Bind message is too long")));
                }
                edits.skip(HEADER + bind.head);
                edits.forward(span.have() - HEADER - bind.head);
            }
        }
        Flow::Done
    }

    pub(super) fn describe_or_close(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let is_close = span.tag() == FrontendTag::CLOSE;
        let request = if is_close { Request::Close } else { Request::Describe };
        let name = match Target::new(span.body(bytes)) {
            None => {
                let report = Report::protocol("invalid Describe or Close message");
                return self.refuse(span, report, Some(held), edits);
            }
            Some(Target::Statement(name)) if self.naming == Naming::Ours || name.is_empty() => name,
            Some(Target::Statement(name)) => {
                if let Some(statements) = self.statements.as_mut().filter(|_| is_close) {
                    statements.remove(name);
                }
                self.replies.push(request, Action::Forward, None);
                edits.forward(span.have());
                return Flow::Done;
            }
            Some(Target::Portal(_)) => {
                self.replies.push(request, Action::Forward, None);
                edits.forward(span.have());
                return Flow::Done;
            }
        };
        if is_close {
            let before = self.statements.as_mut().and_then(|statements| statements.remove(name));
            let then = Then::Unnamed(Renamed { name: name.into(), before });
            self.replies.push(request, Action::Complete(BackendTag::CLOSE_COMPLETE), Some(then));
            return self.skip(span, edits);
        }
        if name.is_empty() && self.replies.has_unnamed_of_earlier_batch() {
            return Flow::Stop(Want::Input);
        }
        let named = self.find_for(name, held, world);
        if let Some(named) = &named {
            self.lend(&named.statement, || &named.prepared.text, edits);
        }
        match &named {
            Some(named) if name.is_empty() => self.ensure_unnamed(&named.prepared, held, edits),
            Some(named) => self.ensure(&named.prepared, held, edits),
            None if name.is_empty() => self.close_foreign_unnamed(held, edits),
            None => {}
        }
        let told = named.as_ref().filter(|named| named.prepared.may_have_parameters());
        let then = told.map(|named| Then::Described { name: name.into(), id: named.prepared.id });
        self.replies.push(request, Action::Forward, then);
        match named.filter(|_| !name.is_empty()) {
            None => edits.forward(span.have()),
            Some(named) => {
                edits.insert(|out| frontend::write_describe_statement(out, &named.prepared.server_name));
                edits.skip(span.have());
            }
        }
        Flow::Done
    }

    /// A Close needs no server: names are kept here, and portals do not outlive their transaction.
    pub(super) fn close_without_server(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        edits: &mut Edits,
    ) -> Flow {
        match Target::new(span.body(bytes)) {
            None => return self.refuse(span, Report::protocol("invalid Close message"), None, edits),
            Some(Target::Statement(name)) => {
                if let Some(statements) = &mut self.statements {
                    statements.remove(name);
                }
            }
            Some(Target::Portal(_)) => {}
        }
        backend::write_bare(&mut edits.reply, BackendTag::CLOSE_COMPLETE);
        self.skip(span, edits)
    }

    pub(super) fn execute(&mut self, span: Span<FrontendTag>, bytes: &[u8], edits: &mut Edits) -> Flow {
        let portal = frontend::executed_portal(span.body(bytes)).unwrap_or_default();
        let effect = self.tenure.portals.as_ref().and_then(|portals| portals.get(portal));
        let then = match effect.map(|effect| (effect.statement.clone(), effect.prepared.clone())) {
            Some((statement, prepared)) => {
                self.lend(&statement, || &prepared.text, edits);
                self.consequence(&statement, &prepared.text)
            }
            None => None,
        };
        if self.must_know_status(then.as_ref()) {
            return Flow::Stop(Want::Input);
        }
        self.stand_in(then.as_ref(), edits);
        let is_deallocation = then.as_ref().is_some_and(Then::is_deallocation);
        self.replies.push(Request::Execute, Action::Forward, then);
        edits.forward(span.have());
        if is_deallocation {
            // What follows hangs on it and waits, so it must be answered at once.
            edits.insert(frontend::write_flush);
        }
        Flow::Done
    }

    /// Makes sure that the server has this statement under our name.
    fn ensure(&mut self, prepared: &Arc<Prepared>, held: &mut Held<'_>, edits: &mut Edits) {
        if !held.state.statements.uses(prepared.id) {
            let then = Then::Parsed { id: prepared.id, name: None };
            self.put_on_server(prepared, Action::Swallow, then, held, edits);
        }
    }

    /// Makes sure that this is the server's unnamed statement.
    fn ensure_unnamed(&mut self, prepared: &Arc<Prepared>, held: &mut Held<'_>, edits: &mut Edits) {
        if held.state.statements.unnamed() != Some(prepared.id) {
            edits.events.server_parses += 1;
            edits.insert(|out| Parse::write(out, b"", &prepared.text, &prepared.types));
            held.state.statements.set_unnamed(Some(prepared.id));
            self.replies.push(Request::Parse, Action::Swallow, Some(Then::ParsedUnnamed { name: None }));
        }
    }

    /// The client has no unnamed statement, but the server may have one of somebody else's: it must not be found.
    fn close_foreign_unnamed(&mut self, held: &mut Held<'_>, edits: &mut Edits) {
        edits.insert(|out| frontend::write_close_statement(out, b""));
        held.state.statements.set_unnamed(None);
        self.replies.push(Request::Close, Action::Swallow, None);
    }

    fn put_on_server(
        &mut self,
        prepared: &Arc<Prepared>,
        action: Action,
        then: Then,
        held: &mut Held<'_>,
        edits: &mut Edits,
    ) {
        if let Some(evicted) = held.state.statements.add(prepared) {
            edits.insert(|out| frontend::write_close_statement(out, &evicted.server_name));
            self.replies.push(Request::Close, Action::Swallow, Some(Then::Evicted(evicted)));
        }
        edits.events.server_parses += 1;
        edits.insert(|out| Parse::write(out, &prepared.server_name, &prepared.text, &prepared.types));
        self.replies.push(Request::Parse, action, Some(then));
    }

    fn open_portal(&mut self, portal: &[u8], named: &Named) {
        if has_consequence(&named.statement) {
            let effect =
                PortalEffect { prepared: named.prepared.clone(), statement: named.statement.clone() };
            let portals = self.tenure.portals.get_or_insert_default();
            portals.insert(portal.into(), effect);
            if portals.len() > MAX_PORTALS {
                // No honest client comes here; which settings these portals change is no longer followed.
                portals.clear();
                self.pin(Effects::HIDDEN_SETTINGS);
            }
        } else if let Some(portals) = &mut self.tenure.portals {
            portals.remove(portal);
        }
    }
}

/// Whether a request is one Parse of the unnamed statement, one Bind of that, what belongs to its portal, and Sync, and nothing
/// follows. Where the statement is described, the client may bind it later by the types that it has seen.
fn is_one_execution(bytes: &[u8]) -> bool {
    let mut messages = messages(bytes);
    let mut next = || messages.next().and_then(Result::ok);
    let is_parsed = next().is_some_and(|(_, body)| Parse::name(body) == Some(b""));
    let is_bound = is_parsed
        && next().is_some_and(|(tag, body)| {
            tag == FrontendTag::BIND && Bind::new(body).is_some_and(|bind| bind.statement.is_empty())
        });
    let mut behind = std::iter::from_fn(next).skip_while(|(tag, body)| match *tag {
        FrontendTag::DESCRIBE | FrontendTag::CLOSE => body.first() == Some(&b'P'),
        tag => tag == FrontendTag::EXECUTE,
    });
    is_bound && behind.next().is_some_and(|(tag, _)| tag == FrontendTag::SYNC) && behind.next().is_none()
}

/// A statement's place on a server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is there.
    Taken,
    /// It is to be put there.
    Free,
}

/// The place of a statement that comes without a name, if the server that is held should keep it.
fn place_unnamed(prepared: &Prepared, held: &mut Held<'_>, world: &mut World<'_>) -> Option<Place> {
    let statements = &mut held.state.statements;
    match world.registry.comes_unnamed(prepared.id) {
        true if statements.uses(prepared.id) => Some(Place::Taken),
        true => statements.has_room_for(prepared).then_some(Place::Free),
        false => None,
    }
}
