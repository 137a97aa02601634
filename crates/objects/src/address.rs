//! Where objects are, as people type it.

use engine::{Error, Result};

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Amazon's protocol, whoever speaks it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure's blobs.
    Azure,
    /// Any web server; read only.
    Http,
    Folder,
}

/// A place that was typed: what kind, the bucket, and the prefix of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(crate) scheme: Scheme,
    /// The bucket or container; the URL up to its path for a web server; empty for a folder.
    pub(crate) root: String,
    /// Azure's account, where the URL names it.
    pub(crate) account: Option<String>,
    /// Without slashes at its ends; for a folder the path as it was typed.
    pub(crate) prefix: String,
}

impl Address {
    /// Reads `text`: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`,
    /// `abfs[s]://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX`, `http[s]://HOST/PATH`, `file:///PATH` or a path.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for anything else, naming what there is.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(Error::invalid("the place is empty: give a folder or a URL such as s3://BUCKET/PREFIX"));
            }
            return Ok(Self::folder(text));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self::folder(path)),
                _ => Err(Error::invalid(format!("{text}: a file's URL has an absolute path, as in file:///PATH"))),
            },
            "s3" | "s3a" => Self::bucket(Scheme::S3, text, rest),
            "gs" => Self::bucket(Scheme::Gcs, text, rest),
            "az" | "azure" | "abfs" | "abfss" => Self::azure(text, rest),
            scheme @ ("http" | "https") => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                if host.is_empty() {
                    return Err(Error::invalid(format!("{text}: it names no host")));
                }
                let (root, prefix) = (format!("{scheme}://{host}"), path.trim_end_matches('/').to_owned());
                Ok(Self { scheme: Scheme::Http, root, account: None, prefix })
            }
            other => Err(Error::invalid(format!(
                "{text}: there is no {other}://; give s3://, gs://, az://, abfs://, http://, https:// or file://, or a path"
            ))),
        }
    }

    /// Reads the URL of one object: the place that it is in, and its key there.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`InvalidInput`](engine::ErrorKind::InvalidInput) for a URL that names no object.
    pub fn parse_object(text: &str) -> Result<(Self, String)> {
        let mut address = Self::parse(text)?;
        // A signature's text may hold slashes, and a query belongs to the key whatever is in it.
        let path =
            if address.scheme == Scheme::Http { address.prefix.split('?').next() } else { Some(&*address.prefix) };
        let at = path.unwrap_or_default().rfind('/').map_or(0, |slash| slash + 1);
        let key = address.prefix.split_off(at);
        if key.is_empty() || text.ends_with('/') {
            return Err(Error::invalid(format!("{text}: it names no object; give the whole URL of one")));
        }
        address.prefix.truncate(address.prefix.trim_end_matches('/').len());
        if address.scheme == Scheme::Folder && address.prefix.is_empty() {
            address.prefix = if text.contains("/") { "/" } else { "." }.to_owned();
        }
        Ok((address, key))
    }

    /// Whether it is a folder of this machine; its path then.
    pub fn as_folder(&self) -> Option<&std::path::Path> {
        (self.scheme == Scheme::Folder).then(|| std::path::Path::new(&self.prefix))
    }

    /// The key of an object of the bucket that is called `key` in this place.
    pub(crate) fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) }
    }

    /// What the object called `key` is called elsewhere; without a user and a query, which may be secrets.
    pub(crate) fn url(&self, key: &str) -> String {
        self.url_of(&self.full(key))
    }

    /// As [`url`](Self::url), for a key that has the place's prefix already.
    pub(crate) fn url_of(&self, full: &str) -> String {
        let root = &self.root;
        let account = || self.account.as_deref().unwrap_or_default();
        match self.scheme {
            Scheme::S3 => format!("s3://{root}/{full}"),
            Scheme::Gcs => format!("gs://{root}/{full}"),
            Scheme::Azure if self.account.is_some() => {
                format!("abfss://{root}@{}.dfs.core.windows.net/{full}", account())
            }
            Scheme::Azure => format!("az://{root}/{full}"),
            Scheme::Http => {
                let (scheme, host) = root.split_once("://").unwrap_or_default();
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                format!("{scheme}://{host}/{}", full.split('?').next().unwrap_or_default())
            }
            Scheme::Folder => full.to_owned(),
        }
    }

    fn folder(path: &str) -> Self {
        let trimmed = path.trim_end_matches('/');
        let prefix = if trimmed.is_empty() { "/" } else { trimmed }.to_owned();
        Self { scheme: Scheme::Folder, root: String::new(), account: None, prefix }
    }

    fn bucket(scheme: Scheme, text: &str, rest: &str) -> Result<Self> {
        let (root, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if root.is_empty() || !root.chars().all(plain) {
            return Err(Error::invalid(format!("{text}: '{root}' is no name of a bucket")));
        }
        let prefix = prefix.trim_matches('/').to_owned();
        if prefix.split('/').any(|segment| matches!(segment, "." | "..")) || prefix.contains("//") {
            return Err(Error::invalid(format!("{text}: a prefix has no empty segments and none that are dots")));
        }
        Ok(Self { scheme, root: root.to_owned(), account: None, prefix })
    }

    fn azure(text: &str, rest: &str) -> Result<Self> {
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let Some((container, host)) = authority.split_once('@') else {
            return Self::bucket(Scheme::Azure, text, rest);
        };
        let account = host.split('.').next().filter(|account| !account.is_empty());
        let account = account.ok_or_else(|| Error::invalid(format!("{text}: it names no account after the @")))?;
        let address = Self::bucket(Scheme::Azure, text, &format!("{container}/{prefix}"))?;
        Ok(Self { account: Some(account.to_owned()), ..address })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scheme {
            Scheme::Folder => f.write_str(&self.prefix),
            _ => f.write_str(self.url("").trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        for (text, scheme, root, prefix, shown) in [
            ("models", Scheme::Folder, "", "models", "models"),
            ("/srv/models/", Scheme::Folder, "", "/srv/models", "/srv/models"),
            ("file:///srv/models", Scheme::Folder, "", "/srv/models", "/srv/models"),
            ("/", Scheme::Folder, "", "/", "/"),
            ("s3://bucket", Scheme::S3, "bucket", "", "s3://bucket"),
            ("s3://bucket/", Scheme::S3, "bucket", "", "s3://bucket"),
            ("S3A://bucket/a/b c/", Scheme::S3, "bucket", "a/b c", "s3://bucket/a/b c"),
            ("gs://bucket/a", Scheme::Gcs, "bucket", "a", "gs://bucket/a"),
            ("az://box/a", Scheme::Azure, "box", "a", "az://box/a"),
            (
                "abfss://box@me.dfs.core.windows.net/a",
                Scheme::Azure,
                "box",
                "a",
                "abfss://box@me.dfs.core.windows.net/a",
            ),
            ("https://host:81/a/b", Scheme::Http, "https://host:81", "a/b", "https://host:81/a/b"),
            ("https://me:word@host/a@b", Scheme::Http, "https://me:word@host", "a@b", "https://host/a@b"),
        ] {
            let address = Address::parse(text).unwrap();
            let seen = (address.scheme, &*address.root, &*address.prefix, &*address.to_string());
            assert_eq!(seen, (scheme, root, prefix, shown), "{text}");
        }
        for text in [
            "",
            "s3://",
            "s3:///a",
            "s3://b?c/a",
            "s3://b/../a",
            "s3://b/a//c",
            "ftp://a",
            "file://a",
            "https://",
            "az://a@",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_object_is_a_place_and_a_key() {
        for (text, place, key) in [
            ("s3://bucket/a/b.mp4", "s3://bucket/a", "b.mp4"),
            ("s3://bucket/b#1.mp4", "s3://bucket", "b#1.mp4"),
            ("b.mp4", ".", "b.mp4"),
            ("/b.mp4", "/", "b.mp4"),
            ("/a/b.mp4", "/a", "b.mp4"),
            ("https://host/a/b.mp4?X-Sig=a/b", "https://host/a", "b.mp4?X-Sig=a/b"),
        ] {
            let (address, found) = Address::parse_object(text).unwrap();
            assert_eq!((&*address.to_string(), &*found), (place, key), "{text}");
            let shown = address.url(&found);
            assert!(shown.ends_with(key.split('?').next().unwrap()) && !shown.contains('?'), "{text}: {shown}");
        }
        for text in ["s3://bucket", "s3://bucket/", "s3://bucket/a/", "https://host", "/"] {
            assert!(Address::parse_object(text).is_err(), "{text}");
        }
    }
}
