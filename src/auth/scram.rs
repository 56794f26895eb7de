//! SCRAM-SHA-256, both sides; towards clients with channel binding (SCRAM-SHA-256-PLUS) where there is something to bind to.
//!
//! ```text
//! ScramServer: Start --client-first--> AwaitFinal --client-final--> over
//!              Start --(mechanism alone)--> AwaitFirst --client-first--> AwaitFinal
//! ScramClient: Start --first()--> AwaitServerFirst --> AwaitServerFinal --> over
//! ```
//! Anything else, in any state, is an error, and after an error the exchange is over.
//!
//! Sources: RFC 5802, RFC 5929, RFC 7677, <https://www.postgresql.org/docs/current/sasl-authentication.html>, and PostgreSQL's
//! `auth-scram.c` for what it accepts. The user name inside the exchange is ignored, as PostgreSQL does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::secret::{self, Signer, hmac, sha256};
use super::{ScramKeys, ServerCredential};
use crate::config::{ScramVerifier, Secret, User};

/// The mechanism that is always spoken here.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// The same with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The longest message of an exchange, in bytes. A real one has under 300; user names may make it longer.
pub const MAX_MESSAGE: usize = 2048;

/// The longest nonce accepted from the other side, in bytes. PostgreSQL's have 24, both together 48.
pub const MAX_NONCE: usize = 512;

/// The longest salt accepted from a server, in bytes. PostgreSQL makes 16.
pub const MAX_SALT: usize = 256;

/// The most PBKDF2 rounds that a server may make us do: half a second or so, against 4096 as PostgreSQL's default.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// Why an exchange failed. Never holds what the other side sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramError {
    /// The other side broke the protocol; says how.
    Malformed(&'static str),
    /// The other side asks for something that is not spoken here; says what.
    Unsupported(&'static str),
    /// Client and server do not see the same TLS connection; in PostgreSQL's words.
    ChannelBinding(&'static str),
    /// The proof is wrong: no such user, or another password.
    WrongProof,
    /// The server could not prove that it knows the user's verifier.
    ServerNotProven,
    /// The server answered with an error attribute.
    ServerRefused,
    /// What we have cannot serve this server: no password, or keys of another verifier.
    KeysDoNotFit(&'static str),
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScramError::Malformed(what) => write!(f, "malformed SCRAM message: {what}"),
            ScramError::Unsupported(what) => write!(f, "unsupported SCRAM request: {what}"),
            ScramError::ChannelBinding(what) => f.write_str(what),
            ScramError::WrongProof => f.write_str("the SCRAM proof is wrong"),
            ScramError::ServerNotProven => {
                f.write_str("the server did not prove that it knows the user's verifier")
            }
            ScramError::ServerRefused => f.write_str("the server refused the SCRAM exchange"),
            ScramError::KeysDoNotFit(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ScramError {}

/// A secret of this process, from which the salts come that are shown for users without a stored verifier.
///
/// A user that does not exist gets the same salt every time, as a real one does.
#[derive(Clone)]
pub struct Seed([u8; 32]);

impl Seed {
    /// From 32 random bytes, chosen once per process.
    pub fn new(random: [u8; 32]) -> Seed {
        Seed(random)
    }

    fn salt(&self, user: &str) -> [u8; 16] {
        let mut salt = [0; 16];
        salt.copy_from_slice(&hmac(&self.0, user.as_bytes())[..16]);
        salt
    }
}

/// What the server side checks one user's proof against, and all of an exchange that is the same each time.
pub struct Keys {
    verifier: ScramVerifier,
    origin: Origin,
    /// By the stored key.
    client: Signer,
    /// By the server's.
    server: Signer,
    /// The salt and the iterations as they stand in a server-first-message, behind its nonce.
    parameters: String,
}

/// Where a verifier comes from, which says what a successful login is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Stored, so a server may hold the same one: the client's key is worth keeping.
    Stored,
    /// Made here from a password with our own salt: no server holds it.
    Derived,
    /// Made up, for a user that does not exist or has no usable secret: no proof fits.
    Mock,
}

impl Keys {
    /// The keys of a user, known or not. Takes PBKDF2's time for a plain password: do it once per user ([`KeyRing`]).
    pub fn derive(user: &str, secret: Option<&Secret>, seed: &Seed) -> Keys {
        match secret {
            Some(Secret::Scram(verifier)) => Keys::new(verifier.clone(), Origin::Stored),
            Some(Secret::Plain(password)) if !password.is_empty() => {
                let verifier = secret::verifier(password, &seed.salt(user), secret::ITERATIONS);
                Keys::new(verifier, Origin::Derived)
            }
            Some(Secret::Plain(_) | Secret::Md5(_)) | None => Keys::mock(user, seed),
        }
    }

    fn new(verifier: ScramVerifier, origin: Origin) -> Keys {
        Keys {
            client: Signer::new(&verifier.stored_key),
            server: Signer::new(&verifier.server_key),
            parameters: format!(",s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations),
            verifier,
            origin,
        }
    }

    fn mock(user: &str, seed: &Seed) -> Keys {
        let verifier = ScramVerifier {
            iterations: secret::ITERATIONS,
            salt: seed.salt(user).to_vec(),
            stored_key: hmac(&seed.0, b"no key"),
            server_key: hmac(&seed.0, b"no key either"),
        };
        Keys::new(verifier, Origin::Mock)
    }
}

/// The keys of every configured user, each derived at its first login and kept.
///
/// It cannot grow: names that are not configured get made-up keys, which cost two HMACs and are not kept.
pub struct KeyRing {
    users: BTreeMap<String, (Option<Secret>, OnceLock<Arc<Keys>>)>,
    seed: Seed,
}

impl KeyRing {
    /// The ring of these users. Nothing is derived yet.
    pub fn new(users: &BTreeMap<String, User>, seed: Seed) -> KeyRing {
        let slot = |(name, user): (&String, &User)| (name.clone(), (user.secret.clone(), OnceLock::new()));
        KeyRing { users: users.iter().map(slot).collect(), seed }
    }

    /// Whether [`KeyRing::keys`] would take PBKDF2's time (a millisecond or more), so that a worker may do it elsewhere.
    pub fn must_derive(&self, user: &str) -> bool {
        let slow = |secret: &Option<Secret>| matches!(secret, Some(Secret::Plain(_)));
        self.users.get(user).is_some_and(|(secret, kept)| slow(secret) && kept.get().is_none())
    }

    /// The keys of a user, known or not. `secret` is what was found out of one who is not configured.
    pub fn keys(&self, user: &str, secret: Option<&Secret>) -> Arc<Keys> {
        match self.users.get(user) {
            Some((secret, kept)) => {
                Arc::clone(kept.get_or_init(|| Arc::new(Keys::derive(user, secret.as_ref(), &self.seed))))
            }
            None => Arc::new(Keys::derive(user, secret, &self.seed)),
        }
    }
}

/// The server's side of one exchange: it is fed the bodies of the client's `p` messages.
pub struct ScramServer {
    keys: Arc<Keys>,
    nonce: String,
    /// What channel binding binds to, if it is offered.
    end_point: Option<Arc<[u8]>>,
    state: ServerState,
}

enum ServerState {
    Start,
    AwaitFirst(Mechanism),
    AwaitFinal {
        /// The beginning of AuthMessage: client-first-message-bare, a comma and server-first-message.
        said: String,
        /// Where both sides' nonce stands in it.
        nonce: Range<usize>,
        binding: Binding,
    },
    Over,
}

/// What the client has chosen.
#[derive(Clone, Copy)]
enum Mechanism {
    Plain,
    Plus,
}

/// What the client says of channel binding, first in its first message.
enum Binding {
    /// It can do none.
    Unknown,
    /// It can, and was offered none.
    Unoffered,
    /// It sees a server with this certificate.
    EndPoint(Arc<[u8]>),
}

/// The gs2-header of a client that binds.
const END_POINT: &str = "p=tls-server-end-point,,";

impl Binding {
    /// What its last message must say: the gs2-header and what is bound to, in base64.
    fn repeated(&self) -> Cow<'static, str> {
        match self {
            Binding::Unknown => "biws".into(),
            Binding::Unoffered => "eSws".into(),
            Binding::EndPoint(end_point) => BASE64.encode([END_POINT.as_bytes(), end_point].concat()).into(),
        }
    }

    fn mismatch(&self) -> ScramError {
        match self {
            Binding::EndPoint(_) => ScramError::ChannelBinding("SCRAM channel binding check failed"),
            _ => ScramError::Malformed("the channel binding differs from the first message's"),
        }
    }
}

/// What the server's side says next.
#[derive(PartialEq, Eq)]
pub enum ServerStep {
    /// AuthenticationSASLContinue with these data; then the client speaks.
    Continue(Vec<u8>),
    /// AuthenticationSASLFinal with these data; the client has proven that it knows the password.
    Proven {
        /// The server's own proof, for AuthenticationSASLFinal.
        message: Vec<u8>,
        /// Keys for servers with the same verifier; only if ours was a stored one.
        keys: Option<ScramKeys>,
    },
}

impl ScramServer {
    /// A new exchange. `nonce` is random, at least 18 bytes before base64; `end_point` is what a client may bind to.
    pub fn new(keys: Arc<Keys>, nonce: &[u8], end_point: Option<Arc<[u8]>>) -> ScramServer {
        ScramServer { keys, nonce: BASE64.encode(nonce), end_point, state: ServerState::Start }
    }

    /// The mechanisms to offer, each ending in a zero byte, and the list in one.
    pub fn mechanisms(&self) -> &'static [u8] {
        match self.end_point {
            Some(_) => b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
            None => b"SCRAM-SHA-256\0\0",
        }
    }

    /// The body of the next `p` message: a SASLInitialResponse, then SASLResponses.
    ///
    /// # Errors
    /// Whatever is not the next message of a good exchange; afterwards the exchange is over.
    pub fn message(&mut self, body: &[u8]) -> Result<ServerStep, ScramError> {
        if body.len() > MAX_MESSAGE {
            self.state = ServerState::Over;
            return Err(ScramError::Malformed("too long"));
        }
        match std::mem::replace(&mut self.state, ServerState::Over) {
            ServerState::Start => match initial_response(body)? {
                (Mechanism::Plus, _) if self.end_point.is_none() => {
                    Err(ScramError::Unsupported("channel binding was not offered"))
                }
                (mechanism, Some(data)) => self.client_first(mechanism, text(data)?),
                (mechanism, None) => {
                    self.state = ServerState::AwaitFirst(mechanism);
                    Ok(ServerStep::Continue(Vec::new()))
                }
            },
            ServerState::AwaitFirst(mechanism) => self.client_first(mechanism, text(body)?),
            ServerState::AwaitFinal { said, nonce, binding } => {
                let last = ClientFinal::parse(text(body)?, &said[nonce], &binding)?;
                self.client_final(&said, last)
            }
            ServerState::Over => Err(ScramError::Malformed("the exchange is over")),
        }
    }

    fn client_first(&mut self, mechanism: Mechanism, message: &str) -> Result<ServerStep, ScramError> {
        let first = ClientFirst::parse(message)?;
        let binding = self.binding(mechanism, first.binding)?;
        let said = [first.bare, ",r=", first.nonce, &self.nonce, &self.keys.parameters].concat();
        let nonce_at = first.bare.len() + ",r=".len();
        let server_first = said.as_bytes()[first.bare.len() + 1..].to_vec();
        self.state = ServerState::AwaitFinal {
            said,
            nonce: nonce_at..nonce_at + first.nonce.len() + self.nonce.len(),
            binding,
        };
        Ok(ServerStep::Continue(server_first))
    }

    /// A client that could bind, and was told by somebody that we cannot, is told otherwise.
    fn binding(&self, mechanism: Mechanism, flag: &str) -> Result<Binding, ScramError> {
        let is_bound = flag.starts_with("p=");
        match (mechanism, flag, &self.end_point) {
            (Mechanism::Plus, "p=tls-server-end-point", Some(end_point)) => {
                Ok(Binding::EndPoint(end_point.clone()))
            }
            (Mechanism::Plus, _, _) if is_bound => {
                Err(ScramError::Unsupported("its type of channel binding"))
            }
            (Mechanism::Plus, "n" | "y", _) => {
                Err(ScramError::Malformed("SCRAM-SHA-256-PLUS without channel binding"))
            }
            (Mechanism::Plain, _, _) if is_bound => {
                Err(ScramError::Malformed("SCRAM-SHA-256 with channel binding"))
            }
            (Mechanism::Plain, "n", _) => Ok(Binding::Unknown),
            (Mechanism::Plain, "y", None) => Ok(Binding::Unoffered),
            (Mechanism::Plain, "y", Some(_)) => {
                Err(ScramError::ChannelBinding("SCRAM channel binding negotiation error"))
            }
            _ => Err(ScramError::Malformed("unknown channel binding flag")),
        }
    }

    fn client_final(&self, said: &str, last: ClientFinal<'_>) -> Result<ServerStep, ScramError> {
        let verifier = &self.keys.verifier;
        let auth_message = [said, ",", last.without_proof];
        let client_key = xor(last.proof, self.keys.client.sign(&auth_message));
        let proven: bool = sha256(&client_key).ct_eq(&verifier.stored_key).into();
        if !proven || self.keys.origin == Origin::Mock {
            return Err(ScramError::WrongProof);
        }
        let signature = self.keys.server.sign(&auth_message);
        let keys = (self.keys.origin == Origin::Stored).then(|| ScramKeys {
            client_key,
            server_key: verifier.server_key,
            salt: verifier.salt.clone(),
            iterations: verifier.iterations,
        });
        Ok(ServerStep::Proven { message: format!("v={}", BASE64.encode(signature)).into_bytes(), keys })
    }
}

/// The client's side of one exchange, towards a server.
pub struct ScramClient {
    source: Source,
    first_bare: String,
    nonce: String,
    state: ClientState,
}

enum Source {
    Password { password: String, cached: Option<ScramKeys> },
    Keys(ScramKeys),
}

enum ClientState {
    AwaitServerFirst,
    AwaitServerFinal { auth_message: String, keys: ScramKeys },
    Over,
}

impl ScramClient {
    /// A new exchange with what we have. `nonce` is random, at least 18 bytes before base64. `cached` are keys that an
    /// earlier exchange with the same password ended with: if they fit, PBKDF2 is saved.
    ///
    /// # Errors
    /// `KeysDoNotFit` if the credential can never serve SCRAM.
    pub fn new(
        credential: &ServerCredential,
        cached: Option<&ScramKeys>,
        nonce: &[u8],
    ) -> Result<ScramClient, ScramError> {
        let source = match credential {
            ServerCredential::Plain(password) if password.is_empty() => {
                return Err(ScramError::KeysDoNotFit("the password is empty"));
            }
            ServerCredential::Plain(password) => {
                Source::Password { password: password.clone(), cached: cached.cloned() }
            }
            ServerCredential::Scram(keys) => Source::Keys(keys.clone()),
            ServerCredential::Md5(_) => {
                return Err(ScramError::KeysDoNotFit(
                    "the server asks for SCRAM and only an md5 hash is known",
                ));
            }
            ServerCredential::Nothing => {
                return Err(ScramError::KeysDoNotFit("the server asks for SCRAM and no password is known"));
            }
        };
        let nonce = BASE64.encode(nonce);
        // The user name is empty, as libpq leaves it: the server takes the one of the startup packet.
        Ok(ScramClient {
            source,
            first_bare: format!("n=,r={nonce}"),
            nonce,
            state: ClientState::AwaitServerFirst,
        })
    }

    /// The data of the SASLInitialResponse; its mechanism is [`MECHANISM`].
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first_bare).into_bytes()
    }

    /// The data of AuthenticationSASLContinue give the data of the SASLResponse.
    ///
    /// # Errors
    /// A malformed message, more than [`MAX_ITERATIONS`], or keys of another verifier; the exchange is then over.
    pub fn server_first(&mut self, data: &[u8]) -> Result<Vec<u8>, ScramError> {
        let ClientState::AwaitServerFirst = std::mem::replace(&mut self.state, ClientState::Over) else {
            return Err(ScramError::Malformed("AuthenticationSASLContinue out of order"));
        };
        let message = text(data)?;
        let first = ServerFirst::parse(message, &self.nonce)?;
        let keys = self.keys(&first)?;
        let without_proof = format!("c=biws,r={}", first.nonce);
        let auth_message = format!("{},{message},{without_proof}", self.first_bare);
        let signature = hmac(&sha256(&keys.client_key), auth_message.as_bytes());
        let proof = BASE64.encode(xor(keys.client_key, signature));
        self.state = ClientState::AwaitServerFinal { auth_message, keys };
        Ok(format!("{without_proof},p={proof}").into_bytes())
    }

    /// The data of AuthenticationSASLFinal. Success says that the server knows the verifier, and gives keys to keep for
    /// the next exchange with the same password.
    ///
    /// # Errors
    /// A server that proves nothing, or that answers with an error.
    pub fn server_final(&mut self, data: &[u8]) -> Result<ScramKeys, ScramError> {
        let ClientState::AwaitServerFinal { auth_message, keys } =
            std::mem::replace(&mut self.state, ClientState::Over)
        else {
            return Err(ScramError::Malformed("AuthenticationSASLFinal out of order"));
        };
        let mut attributes = Attributes::of(text(data)?);
        if attributes.rest.starts_with("e=") {
            return Err(ScramError::ServerRefused);
        }
        let signature = bytes32(attributes.next('v')?)?;
        attributes.skip_extensions()?;
        let proven: bool = signature.ct_eq(&hmac(&keys.server_key, auth_message.as_bytes())).into();
        if proven { Ok(keys) } else { Err(ScramError::ServerNotProven) }
    }

    fn keys(&self, first: &ServerFirst<'_>) -> Result<ScramKeys, ScramError> {
        match &self.source {
            Source::Keys(keys) if keys.fit(&first.salt, first.iterations) => Ok(keys.clone()),
            Source::Keys(_) => Err(ScramError::KeysDoNotFit(
                "the server's SCRAM verifier differs from the configured one; give server_password, or a plain password",
            )),
            Source::Password { cached: Some(keys), .. } if keys.fit(&first.salt, first.iterations) => {
                Ok(keys.clone())
            }
            Source::Password { password, .. } => Ok(secret::keys(password, &first.salt, first.iterations)),
        }
    }
}

/// Whether a server's AuthenticationSASL (its list of names, each ending in a zero byte) offers [`MECHANISM`].
pub fn offered(mechanisms: &[u8]) -> bool {
    mechanisms.split(|&byte| byte == 0).any(|name| name == MECHANISM.as_bytes())
}

/// SASLInitialResponse: mechanism, zero byte, length as Int32 (-1: no data), data.
fn initial_response(body: &[u8]) -> Result<(Mechanism, Option<&[u8]>), ScramError> {
    let end = body.iter().position(|&byte| byte == 0).ok_or(ScramError::Malformed("no mechanism"))?;
    let (mechanism, rest) = (&body[..end], &body[end + 1..]);
    let mechanism = match mechanism {
        name if name == MECHANISM_PLUS.as_bytes() => Mechanism::Plus,
        name if name == MECHANISM.as_bytes() => Mechanism::Plain,
        _ => return Err(ScramError::Unsupported("a mechanism that was not offered")),
    };
    let (length, data) = rest.split_first_chunk::<4>().ok_or(ScramError::Malformed("no length"))?;
    match i32::from_be_bytes(*length) {
        -1 if data.is_empty() => Ok((mechanism, None)),
        length if usize::try_from(length) == Ok(data.len()) => Ok((mechanism, Some(data))),
        _ => Err(ScramError::Malformed("the length does not fit the message")),
    }
}

/// client-first-message = gs2-header client-first-message-bare
struct ClientFirst<'a> {
    /// `n`, `y`, or `p=` and a type of channel binding.
    binding: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str) -> Result<ClientFirst<'a>, ScramError> {
        let (binding, rest) = message.split_once(',').ok_or(ScramError::Malformed("no gs2 header"))?;
        let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Malformed("no gs2 header"))?;
        if !authzid.is_empty() {
            return Err(ScramError::Unsupported("an authorization identity"));
        }
        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("a mandatory extension"));
        }
        let mut attributes = Attributes::of(bare);
        attributes.next('n')?;
        let nonce = nonce(attributes.next('r')?)?;
        attributes.skip_extensions()?;
        Ok(ClientFirst { binding, bare, nonce })
    }
}

/// client-final-message = channel-binding "," nonce ["," extensions] "," proof
struct ClientFinal<'a> {
    without_proof: &'a str,
    proof: [u8; 32],
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a str, nonce: &str, binding: &Binding) -> Result<ClientFinal<'a>, ScramError> {
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let mut attributes = Attributes::of(without_proof);
        if attributes.next('c')? != binding.repeated() {
            return Err(binding.mismatch());
        }
        if attributes.next('r')? != nonce {
            return Err(ScramError::Malformed("the nonce does not match"));
        }
        attributes.skip_extensions()?;
        Ok(ClientFinal { without_proof, proof: bytes32(proof)? })
    }
}

/// server-first-message = nonce "," salt "," iteration-count ["," extensions]
struct ServerFirst<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> ServerFirst<'a> {
    fn parse(message: &'a str, client_nonce: &str) -> Result<ServerFirst<'a>, ScramError> {
        let mut attributes = Attributes::of(message);
        let nonce = nonce(attributes.next('r')?)?;
        if nonce.strip_prefix(client_nonce).is_none_or(str::is_empty) {
            return Err(ScramError::Malformed("the server's nonce does not extend ours"));
        }
        let salt = base64(attributes.next('s')?)?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err(ScramError::Malformed("salt empty or too long"));
        }
        let iterations = iterations(attributes.next('i')?)?;
        attributes.skip_extensions()?;
        Ok(ServerFirst { nonce, salt, iterations })
    }
}

/// `a=value,b=value`, read from the front.
struct Attributes<'a> {
    rest: &'a str,
    at_end: bool,
}

impl<'a> Attributes<'a> {
    fn of(text: &'a str) -> Attributes<'a> {
        Attributes { rest: text, at_end: false }
    }

    /// The value of the next attribute, which must have this name.
    fn next(&mut self, name: char) -> Result<&'a str, ScramError> {
        match self.any()? {
            (found, value) if found == name => Ok(value),
            _ => Err(ScramError::Malformed("an attribute is missing or out of order")),
        }
    }

    /// Optional extensions at the end may be ignored (RFC 5802, section 5.1), if they are well-formed.
    fn skip_extensions(&mut self) -> Result<(), ScramError> {
        while !self.at_end {
            self.any()?;
        }
        Ok(())
    }

    fn any(&mut self) -> Result<(char, &'a str), ScramError> {
        let malformed = ScramError::Malformed("an attribute is missing or out of order");
        if self.at_end {
            return Err(malformed);
        }
        let (attribute, rest) = match self.rest.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (self.rest, None),
        };
        (self.rest, self.at_end) = (rest.unwrap_or(""), rest.is_none());
        let (name, value) = attribute.split_once('=').ok_or(malformed)?;
        match name.as_bytes() {
            [letter] if letter.is_ascii_alphabetic() => Ok((char::from(*letter), value)),
            _ => Err(malformed),
        }
    }
}

fn text(data: &[u8]) -> Result<&str, ScramError> {
    if data.len() > MAX_MESSAGE {
        return Err(ScramError::Malformed("too long"));
    }
    match std::str::from_utf8(data) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(ScramError::Malformed("not UTF-8 text")),
    }
}

/// A nonce is printable ASCII without a comma (RFC 5802, section 7).
fn nonce(value: &str) -> Result<&str, ScramError> {
    let good = (1..=MAX_NONCE).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(value) } else { Err(ScramError::Malformed("bad nonce")) }
}

fn iterations(value: &str) -> Result<u32, ScramError> {
    let digits = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(rounds) if digits && rounds <= MAX_ITERATIONS => Ok(rounds),
        Ok(_) if digits => Err(ScramError::Malformed("too many iterations")),
        _ => Err(ScramError::Malformed("bad iteration count")),
    }
}

fn base64(value: &str) -> Result<Vec<u8>, ScramError> {
    BASE64.decode(value).map_err(|_| ScramError::Malformed("bad base64"))
}

fn bytes32(value: &str) -> Result<[u8; 32], ScramError> {
    base64(value)?.try_into().map_err(|_| ScramError::Malformed("not 32 bytes"))
}

fn xor(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| left[i] ^ right[i])
}

#[cfg(test)]
mod tests;
