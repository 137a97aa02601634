//! The catalogue: every manifest of a store in a bucket, in few objects, so that listing a hundred thousand models takes
//! neither a hundred thousand requests nor a hundred.
//!
//! `catalog/root.json` names the shards, `catalog/HASH`, each with the manifests of the models whose names' hashes begin
//! alike. Shards are never changed; whoever adds or removes models writes new ones and then replaces the root, if it is
//! still the one that was read. The manifests under `models/` are the truth, and the root says of which it cannot tell:
//! before a manifest is written or removed it is pending there, so a process that is killed in between leaves no catalogue
//! that lies, only one that sends its readers to a manifest itself.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use engine::{Error, Result};
use flate2::Compression;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The catalogue's format that this build writes, and the newest it reads.
const FORMAT: u32 = 1;
/// The key of the root.
pub(super) const ROOT: &str = "catalog/root.json";
/// A root of more bytes is none.
pub(super) const ROOT_BYTES_MAX: u64 = 64 << 20;
/// A shard of more bytes is none.
pub(super) const SHARD_BYTES_MAX: u64 = 256 << 20;
/// A manifest of more bytes is none.
pub(super) const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// As many models are in a shard, about.
const SHARD_MODELS: usize = 1000;

/// Which version of which model.
pub(crate) type Which = (String, u64);

/// One manifest, as it lies in the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The manifest object's tag.
    pub(super) etag: Option<String>,
    /// Its text, in one line.
    pub(super) manifest: Box<RawValue>,
}

impl Entry {
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when `text` is no JSON.
    pub(super) fn new(etag: Option<String>, text: &[u8]) -> Result<Self> {
        let corrupt = |error: serde_json::Error| Error::corrupt(format!("{error}; push the model again"));
        let mut manifest: Box<RawValue> = serde_json::from_slice(text).map_err(corrupt)?;
        if manifest.get().contains('\n') {
            let value: serde_json::Value = serde_json::from_str(manifest.get()).map_err(corrupt)?;
            manifest = serde_json::value::to_raw_value(&value).map_err(corrupt)?;
        }
        Ok(Self { etag, manifest })
    }
}

/// Every manifest that is known.
pub(crate) type Entries = BTreeMap<Which, Entry>;

/// One manifest in a shard.
#[derive(Serialize)]
struct Line<'a> {
    n: &'a str,
    v: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<&'a str>,
    m: &'a RawValue,
}

/// The same, read.
#[derive(Deserialize)]
struct ReadLine {
    n: String,
    v: u64,
    #[serde(default)]
    e: Option<String>,
    m: Box<RawValue>,
}

/// What the root says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Root {
    format: u32,
    /// The hash of each shard, by the first bits of the hash of its models' names; empty for one without models.
    pub(super) shards: Vec<String>,
    /// Keys of manifests that may or may not be there, and since when that is so, in seconds since 1970.
    #[serde(default)]
    pub(super) pending: BTreeMap<String, u64>,
    /// Files that nothing needed when gc looked, and since when, in seconds since 1970.
    #[serde(default)]
    pub(super) condemned: BTreeMap<String, u64>,
    /// Files that gc is removing, and since when.
    #[serde(default)]
    pub(super) doomed: BTreeMap<String, u64>,
}

impl Root {
    /// A root for about so many models.
    pub(super) fn for_models(models: usize) -> Self {
        let shards = models.div_ceil(SHARD_MODELS).next_power_of_two();
        Self { format: FORMAT, shards: vec![String::new(); shards], ..Self::default() }
    }

    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when it is none, [`Unsupported`](engine::ErrorKind::Unsupported) when a
    /// newer build wrote it.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let corrupt = |error: serde_json::Error| Error::corrupt(format!("it is no catalogue: {error}"));
        let FormatOnly { format } = serde_json::from_slice(text).map_err(corrupt)?;
        if format > FORMAT {
            return Err(Error::unsupported(format!("catalogue format {format} is not known to this build")));
        }
        let root: Self = serde_json::from_slice(text).map_err(corrupt)?;
        let is_hash = |hash: &String| hash.is_empty() || blake3::Hash::from_hex(hash).is_ok();
        if !root.shards.len().is_power_of_two() || !root.shards.iter().all(is_hash) {
            return Err(Error::corrupt("it is no catalogue: its shards are none"));
        }
        Ok(root)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::internal(error.to_string()))
    }

    /// The shard of the models called `name`.
    pub(crate) fn shard_of(&self, name: &str) -> usize {
        let hash = blake3::hash(name.as_bytes());
        let first = hash.as_bytes().first_chunk().map_or(0, |four| u32::from_be_bytes(*four));
        let bits = self.shards.len().trailing_zeros();
        usize::try_from(u64::from(first) >> (32 - bits.min(32))).unwrap_or_default()
    }
}

/// The key of the shard called `hash`.
pub(super) fn shard_key(hash: &str) -> String {
    format!("catalog/{hash}")
}

/// The object that holds `entries`, and its name.
pub(super) fn encode<'a>(entries: impl Iterator<Item = (&'a Which, &'a Entry)>) -> Result<(String, Vec<u8>)> {
    let failed = |error: std::io::Error| Error::internal(error.to_string());
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
    for ((name, version), entry) in entries {
        let line = Line { n: name, v: *version, e: entry.etag.as_deref(), m: &entry.manifest };
        serde_json::to_writer(&mut out, &line).map_err(|error| failed(error.into()))?;
        out.write_all(b"\n").map_err(failed)?;
    }
    let bytes = out.finish().map_err(failed)?;
    Ok((blake3::hash(&bytes).to_hex().to_string(), bytes))
}

/// The manifests in `bytes`, into `entries`.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when it is no shard.
pub(crate) fn decode(bytes: &[u8], entries: &mut Entries) -> Result<()> {
    let corrupt = |reason: String| Error::corrupt(format!("it is no part of a catalogue: {reason}"));
    let mut text = Vec::new();
    let inflated = flate2::read::DeflateDecoder::new(bytes).take(4 * SHARD_BYTES_MAX).read_to_end(&mut text);
    inflated.map_err(|error| corrupt(error.to_string()))?;
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let ReadLine { n, v, e, m } = serde_json::from_slice(line).map_err(|error| corrupt(error.to_string()))?;
        entries.insert((n, v), Entry { etag: e, manifest: m });
    }
    Ok(())
}

/// The key of the manifest of a model's version.
pub(super) fn manifest_key((name, version): &Which) -> String {
    format!("models/{name}/{version}.json")
}

/// The version of a model whose manifest has this key.
pub(super) fn which(key: &str) -> Option<Which> {
    let (name, file) = key.strip_prefix("models/")?.split_once('/')?;
    crate::name::check(name).ok()?;
    Some((
        name.to_owned(),
        file.strip_suffix(".json")?.parse().ok().filter(|version| file == format!("{version}.json"))?,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(text: &str) -> Entry {
        Entry::new(Some("\"t\"".to_owned()), text.as_bytes()).unwrap()
    }

    #[test]
    fn shards_are_read_back() {
        let entries: Entries =
            (1..50).map(|version| (("m\n".to_owned(), version), entry(&format!("{{\n\"v\":{version}}}")))).collect();
        let (hash, bytes) = encode(entries.iter()).unwrap();
        assert_eq!(hash, encode(entries.iter()).unwrap().0, "the same is another object");
        let mut read = Entries::new();
        decode(&bytes, &mut read).unwrap();
        assert_eq!(format!("{read:?}"), format!("{entries:?}"));
    }

    #[test]
    fn models_are_spread_over_shards_and_stay_in_theirs() {
        let root = Root::for_models(10_000);
        assert_eq!(
            (Root::for_models(0).shards.len(), Root::for_models(1000).shards.len(), root.shards.len()),
            (1, 1, 16)
        );
        let mut counts = vec![0; 16];
        (0..10_000).for_each(|number| counts[root.shard_of(&format!("model-{number}"))] += 1);
        assert!(counts.iter().all(|&count| (500..750).contains(&count)), "{counts:?}");
        assert_eq!(Root::for_models(0).shard_of("any"), 0);
        assert_eq!(Root::parse(&root.encode().unwrap()).unwrap(), root);
    }

    #[test]
    fn keys_are_versions_of_models_or_not() {
        for (key, want) in [
            ("models/m/1.json", Some(("m", 1))),
            ("models/a b.c/20.json", Some(("a b.c", 20))),
            ("models/m/01.json", None),
            ("models/m/x.json", None),
            ("models/m/1.json.part", None),
            ("models/m/n/1.json", None),
            ("models/.m/1.json", None),
            ("models/1.json", None),
            ("segments/m/1.json", None),
        ] {
            let want = want.map(|(name, version): (&str, u64)| (name.to_owned(), version));
            assert_eq!(which(key), want, "{key}");
            assert!(want.is_none_or(|want| manifest_key(&want) == key));
        }
    }

    #[test]
    fn a_root_that_lies_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"format": 1, "shards": []}"#,
            r#"{"format": 1, "shards": ["", "", ""]}"#,
            r#"{"format": 1, "shards": ["../x"]}"#,
            r#"{"format": 2, "shards": [""]}"#,
        ] {
            assert!(Root::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn soup_is_no_shard_and_no_panic(soup in any::<Vec<u8>>()) {
            let _ = decode(&soup, &mut Entries::new());
            let _ = Root::parse(&soup);
        }
    }
}
