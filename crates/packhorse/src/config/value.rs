//! What a setting's value may be: each kind reads what was typed, says what is allowed and shows itself again.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value as Json;
use serve::{Control, SharedMemory};
use store::remote::CacheBytes;

/// A kind of value.
pub(super) trait Value: Sized {
    /// Whether it is a list, so that a flag may be repeated and a variable be split at commas.
    const LIST: bool = false;
    /// What may be typed; it ends the sentence "it has to be".
    fn allowed() -> String;
    /// The value of one text, when it is allowed.
    fn read(text: &str) -> Option<Self>;
    /// The value of all texts that were typed; a value that is not a list has exactly one.
    fn read_all(texts: &[String]) -> Option<Self> {
        match texts {
            [text] => Self::read(text),
            _ => None,
        }
    }
    /// The value for a program to read.
    fn json(&self) -> Json;
}

/// The value of a setting that cannot be left out.
impl Value for String {
    fn allowed() -> String {
        "a text that is not empty".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn json(&self) -> Json {
        self.as_str().into()
    }
}

/// A setting that may be left out.
impl<T: Value> Value for Option<T> {
    fn allowed() -> String {
        T::allowed()
    }

    fn read(text: &str) -> Option<Self> {
        T::read(text).map(Some)
    }

    fn read_all(texts: &[String]) -> Option<Self> {
        if texts.is_empty() { Some(None) } else { T::read_all(texts).map(Some) }
    }

    fn json(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::json)
    }
}

impl Value for Vec<String> {
    const LIST: bool = true;

    fn allowed() -> String {
        "names, none of them empty".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        String::read(text).map(|name| vec![name])
    }

    fn read_all(texts: &[String]) -> Option<Self> {
        texts.iter().map(|text| String::read(text)).collect()
    }

    fn json(&self) -> Json {
        self.clone().into()
    }
}

/// A name for a version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) model: String,
    pub(crate) label: String,
    pub(crate) version: u64,
}

impl Value for Vec<Label> {
    const LIST: bool = true;

    fn allowed() -> String {
        "labels of the form MODEL/LABEL=VERSION".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        let (model, rest) = text.split_once('/')?;
        let (label, version) = rest.rsplit_once('=')?;
        let version = version.parse().ok().filter(|_| !model.is_empty() && !label.is_empty())?;
        Some(vec![Label { model: model.to_owned(), label: label.to_owned(), version }])
    }

    fn read_all(texts: &[String]) -> Option<Self> {
        texts.iter().map(|text| Self::read(text)).collect::<Option<Vec<_>>>().map(|labels| labels.concat())
    }

    fn json(&self) -> Json {
        self.iter().map(|label| format!("{}/{}={}", label.model, label.label, label.version)).collect()
    }
}

/// What the names of shared memory that clients may use begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(String);

impl Prefix {
    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl Value for Prefix {
    fn allowed() -> String {
        "three or more letters, digits, `-` or `_`".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        // The part that uses it has the rule, and looks at nothing but the text.
        SharedMemory::new(text).ok().map(|_| Self(text.to_owned()))
    }

    fn json(&self) -> Json {
        self.text().into()
    }
}

impl Value for SocketAddr {
    fn allowed() -> String {
        "an IP address and a port, such as 0.0.0.0:8080 or [::]:8080".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn json(&self) -> Json {
        self.to_string().into()
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Count<MIN, MAX> {
    /// The number.
    pub(crate) fn get(self) -> u32 {
        self.0
    }

    /// The number, as sizes are counted. 32 bits fit everywhere that this runs.
    pub(crate) fn size(self) -> usize {
        self.0 as usize
    }
}

impl<const MIN: u32, const MAX: u32> Value for Count<MIN, MAX> {
    fn allowed() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number| (MIN..=MAX).contains(number)).map(Self)
    }

    fn json(&self) -> Json {
        self.0.into()
    }
}

/// Sizes of batches, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes(Vec<Count<1, 65_536>>);

impl Sizes {
    /// The sizes.
    pub(super) fn get(self) -> Vec<u64> {
        self.0.into_iter().map(|size| u64::from(size.get())).collect()
    }
}

impl Value for Sizes {
    const LIST: bool = true;

    fn allowed() -> String {
        "a list of whole numbers from 1 to 65536, ascending, such as [4, 8]".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        Count::read(text).map(|size| Self(vec![size]))
    }

    fn read_all(texts: &[String]) -> Option<Self> {
        let sizes = Self(texts.iter().map(|text| Count::read(text)).collect::<Option<_>>()?);
        sizes.0.is_sorted_by(|one, next| one.get() < next.get()).then_some(sizes)
    }

    fn json(&self) -> Json {
        self.clone().get().into()
    }
}

/// Bytes of memory; `None` is `auto`, which means something else for each setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory(Option<u64>);

impl Memory {
    /// The number, when there is one.
    pub(crate) fn bytes(self) -> Option<u64> {
        self.0
    }
}

impl Value for Memory {
    fn allowed() -> String {
        "`auto`, or a whole number from 1048576".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self(None)),
            number => number.parse().ok().filter(|&bytes| bytes >= 1 << 20).map(|bytes| Self(Some(bytes))),
        }
    }

    fn json(&self) -> Json {
        self.0.map_or_else(|| "auto".into(), Json::from)
    }
}

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk(CacheBytes);

impl Disk {
    /// How many.
    pub(crate) fn get(self) -> CacheBytes {
        self.0
    }
}

impl Value for Disk {
    fn allowed() -> String {
        Memory::allowed()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self(CacheBytes::Auto)),
            number => {
                number.parse().ok().filter(|&bytes| bytes >= 1 << 20).map(|bytes| Self(CacheBytes::AtMost(bytes)))
            }
        }
    }

    fn json(&self) -> Json {
        match self.0 {
            CacheBytes::Auto => "auto".into(),
            CacheBytes::AtMost(bytes) => bytes.into(),
        }
    }
}

/// Seconds from `MIN` to `MAX`, fractions allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds<const MIN: u32, const MAX: u32>(Duration);

impl<const MIN: u32, const MAX: u32> Seconds<MIN, MAX> {
    /// The time.
    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Value for Seconds<MIN, MAX> {
    fn allowed() -> String {
        format!("seconds from {MIN} to {MAX}, fractions allowed")
    }

    fn read(text: &str) -> Option<Self> {
        let range = f64::from(MIN)..=f64::from(MAX);
        let seconds = text.parse().ok().filter(|seconds| range.contains(seconds))?;
        Duration::try_from_secs_f64(seconds).ok().map(Self)
    }

    fn json(&self) -> Json {
        self.0.as_secs_f64().into()
    }
}

/// A closed list of words: the type, its values and how each is typed.
macro_rules! words {
    ($(#[$about:meta])+ $name:ident { $($(#[$what:meta])+ $value:ident = $word:literal,)+ }) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$what])+ $value,)+ }

        impl $name {
            /// How it is typed.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$value => $word,)+ }
            }
        }

        impl Value for $name {
            fn allowed() -> String {
                format!("one of {}", [$($word),+].join(", "))
            }

            fn read(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$value),)+ _ => None }
            }

            fn json(&self) -> Json {
                self.word().into()
            }
        }
    };
}

impl Value for Control {
    fn allowed() -> String {
        "one of none, poll, explicit".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "poll" => Some(Self::Poll),
            "explicit" => Some(Self::Explicit),
            _ => None,
        }
    }

    fn json(&self) -> Json {
        match self {
            Self::None => "none",
            Self::Poll => "poll",
            Self::Explicit => "explicit",
        }
        .into()
    }
}

words! {
    /// What a line of the log looks like.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// How much is logged.
    LogLevel {
        /// What failed.
        Error = "error",
        /// And what may fail soon.
        Warn = "warn",
        /// And what happens to models.
        Info = "info",
        /// And what happens to requests and connections.
        Debug = "debug",
        /// And everything else.
        Trace = "trace",
    }
}
