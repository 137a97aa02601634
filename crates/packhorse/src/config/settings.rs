//! The one table of settings. A name is typed the same everywhere: `queue-capacity` is the flag `--queue-capacity`, the
//! variable `PACKHORSE_QUEUE_CAPACITY` and the key `queue-capacity` of the file. The doc comments are what `--help`
//! and docs/configuration.md say.

use std::net::SocketAddr;

use serve::Control;

use super::resolved::{Given, value_of};
use super::value::{Count, Disk, Label, LogFormat, LogLevel, Memory, Prefix, Seconds, Value};

/// A setting, for everything that treats all settings alike.
pub(crate) struct Setting {
    /// The field of [`Settings`]; its name with `_` where what is typed has `-`.
    pub(crate) field: &'static str,
    /// Another name, typed by those who learnt it before.
    pub(crate) alias: Option<&'static str>,
    /// What it does, from its doc comment.
    doc: &'static str,
    /// What holds when nothing is typed; empty for nothing.
    pub(crate) default: &'static str,
    /// What may be typed.
    pub(crate) allowed: fn() -> String,
    /// Whether it takes several values.
    pub(crate) list: bool,
}

impl Setting {
    /// The name in the file and, after `--`, of the flag.
    pub(crate) fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// The name of the environment's variable, and that of its alias.
    pub(crate) fn variables(&self) -> impl Iterator<Item = String> {
        let names = std::iter::once(self.field).chain(self.alias);
        names.map(|name| format!("PACKHORSE_{}", name.to_uppercase().replace('-', "_")))
    }

    /// What it does.
    pub(crate) fn doc(&self) -> &'static str {
        self.doc.trim()
    }
}

/// The setting that is typed as `name`.
pub(super) fn named(name: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.name() == name || setting.alias == Some(name))
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident $(or $alias:literal)?: $kind:ty = $default:literal;)+) => {
        /// Every value, read and checked.
        #[derive(Clone, Debug)]
        pub(crate) struct Settings { $($(#[doc = $doc])+ pub(crate) $field: $kind,)+ }

        /// Every setting, in the order in which they are shown.
        pub(crate) const TABLE: &[Setting] = &[$(Setting {
            field: stringify!($field),
            alias: [$(Some($alias),)? None][0],
            doc: concat!($($doc),+),
            default: $default,
            allowed: <$kind as Value>::allowed,
            list: <$kind as Value>::LIST,
        }),+];

        impl Settings {
            /// Reads what was given for each setting.
            ///
            /// # Errors
            /// The name, the value, where it came from and what is allowed.
            pub(super) fn read(given: &[(&'static Setting, Given)]) -> Result<Self, String> {
                Ok(Self { $($field: value_of(given, stringify!($field))?,)+ })
            }

            /// Every value, in the order of [`TABLE`].
            pub(super) fn json(&self) -> Vec<serde_json::Value> {
                vec![$(self.$field.json()),+]
            }
        }
    };
}

settings! {
    /// The models that are served: a store of packs in a folder or in a bucket (`s3://BUCKET/PREFIX`, `gs://`, `az://`), a
    /// Triton or TensorFlow Serving repository, a `models.config`, or
    /// `.onnx` files, one or a folder of them.
    store: String = "";
    /// Where packs are kept that are made of a repository which is no store of packs, so that the next start finds them;
    /// when not given, `packhorse` in `$XDG_CACHE_HOME` or `~/.cache`.
    pack_cache: Option<String> = "";
    /// Where what is fetched of a store in a bucket is kept, so that it is fetched once; servers of one machine may share it.
    /// When not given, `packhorse-stores` in `$XDG_CACHE_HOME` or `~/.cache`.
    cache: Option<String> = "";
    /// How many bytes `cache` may take; what was not used for long and is cheap to have back gives way. `auto` is nine tenths
    /// of what is free on its disk, and of what it has already. It holds for `pack-cache` as well, whose packs stay as long
    /// as a server that runs names them.
    cache_bytes_max: Disk = "auto";
    /// Models that are asked for most get a session of their own, over weights that are laid out for this CPU and mapped
    /// from files here, which take twice a model's weights while it is hot; `off` has all run on what they share. When not
    /// given, `packhorse-hot` in `$XDG_CACHE_HOME` or `~/.cache`, and off where that cannot be written.
    hot_cache: Option<String> = "";
    /// Weights are mapped without being read, so what a disk changed in them would be run on. While models are served, their
    /// weights are compared with the hashes that they were packed with, once, at most so many megabytes of them a second
    /// from disk; models of what is damaged are refused from then on. 0: they are believed.
    inspect_mb_s: Count<0, 1_000_000> = "50";
    /// Where REST is served; port 0 takes a free one, and the addresses are printed as one JSON line.
    http: SocketAddr = "127.0.0.1:8080";
    /// Where gRPC is served.
    grpc: SocketAddr = "127.0.0.1:8081";
    /// Where probes and metrics are answered, on a thread of their own. Nothing there changes the server.
    admin: SocketAddr = "127.0.0.1:8082";
    /// Where the server may be changed as well as asked, over REST and gRPC on one port: models loaded and unloaded, the
    /// log switched. Whoever reaches it may do that, so there is none when it is not given; keep it on the loopback
    /// interface or behind a firewall.
    manage: Option<SocketAddr> = "";
    /// Requests of one model that may wait; one more is refused at once.
    queue_capacity: Count<1, 1_048_576> = "256";
    /// The longest that a request waits for a lane; after that it is refused.
    queue_time_limit_s: Seconds<0, 86_400> = "30";
    /// After SIGTERM, the time to finish what was accepted; `lame-duck-s` is part of it.
    grace_s or "grace": Seconds<0, 86_400> = "30";
    /// After SIGTERM, the time in which the server says that it is not ready and still takes requests, so that
    /// balancers and clients go elsewhere before it closes. SIGINT goes without it.
    lame_duck_s: Seconds<0, 86_400> = "3";
    /// The largest body of a request over REST and the largest message over gRPC, in bytes; never more than
    /// `bodies-bytes-max`.
    body_bytes_max: Count<1, 2_147_483_647> = "268435456";
    /// What everything together may take of the memory, in bytes: models, requests, the process itself. Models that are
    /// asked for least go when it is short. `auto` is what the process may use, by its control group or else the machine,
    /// but for a sixteenth (64 MiB at least, 2 GiB at most).
    memory_budget_bytes: Memory = "auto";
    /// What the bodies of all requests may take together, in bytes, from their arrival to their answer; a request for
    /// which there is no room is refused at once. `auto` is an eighth of `memory-budget-bytes`, of which it is a part.
    bodies_bytes_max: Memory = "auto";
    /// The deepest nesting of arrays in a JSON request.
    json_depth_max: Count<1, 128> = "64";
    /// Inputs of one REST request, and outputs.
    tensors_max: Count<1, 65_536> = "1024";
    /// Connections at once, on each of the listeners for REST, gRPC and management; more wait until one closes.
    connections_max: Count<1, 1_048_576> = "1024";
    /// Requests in flight on one connection of gRPC or HTTP/2; more wait at the client.
    streams_max: Count<1, 65_536> = "256";
    /// Threads that read requests and write answers; when not given, one for every four lanes, and one at least. One
    /// does that for tens of thousands of small requests a second, and at less cost than two that often sleep.
    network_threads: Option<Count<1, 1024>> = "";
    /// The longest that a connection may take to ask for something, and over HTTP/1 to send a request's head, and stay
    /// idle between requests.
    header_timeout_s: Seconds<1, 86_400> = "75";
    /// The longest pause within a request's body or message; after that it is refused.
    read_timeout_s: Seconds<1, 86_400> = "30";
    /// A peer on gRPC or HTTP/2 that is silent for this long is asked whether it lives, and has 20 s to say so.
    keepalive_s: Seconds<1, 86_400> = "60";
    /// Who says what is served: `none` takes what the store holds at the start, `poll` looks again from time to time,
    /// `explicit` loads what is asked for by name on the `manage` listener.
    control: Control = "none";
    /// With `control = poll`, the time between two looks at the store.
    poll_interval_s: Seconds<1, 86_400> = "15";
    /// With `control = explicit`, a model to load at the start; may be given several times. `*` is every model there is.
    load: Vec<String> = "";
    /// A name for a version of a model, `MODEL/LABEL=VERSION`, for clients of TensorFlow Serving's APIs; may be given several
    /// times.
    label: Vec<Label> = "";
    /// Lets clients on this machine pass tensors in shared memory whose names begin with this; off when not given.
    shared_memory: Option<Prefix> = "";
    /// What the log on standard error looks like: `text` for people, or `json`, one object a line.
    log_format: LogFormat = "text";
    /// How much is logged. Single requests and connections are there from `debug` on. A filter in PACKHORSE_LOG, such
    /// as `warn,serve=debug`, says it in more detail and comes before this.
    log_level: LogLevel = "info";
}
