//! Google Cloud Storage's XML interface, as its reference has it (<https://cloud.google.com/storage/docs/xml-api/overview>),
//! in memory and strict: nobody's server that starts here takes its uploads in parts or its conditions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use percent_encoding::percent_decode_str;

use super::own::{self, Asked};

/// The least size of a part that is not the last.
const PART_BYTES_MIN: usize = 5 << 20;
const KEYS_MAX: usize = 1000;

/// A running server with one bucket; its threads wait for connections until the process ends.
pub struct Google {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    bucket: String,
    /// What everybody has to show; without one, nobody may show any.
    token: Option<String>,
    objects: BTreeMap<String, Stored>,
    uploads: HashMap<String, Uploading>,
    /// Counts writes.
    generation: u64,
}

#[derive(Default)]
struct Uploading {
    key: String,
    /// By their numbers.
    parts: BTreeMap<u32, Vec<u8>>,
}

#[derive(Clone)]
struct Stored {
    bytes: Arc<Vec<u8>>,
    etag: String,
    generation: u64,
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

type Outcome = Result<Reply, Reply>;

impl Google {
    pub fn start(bucket: &str, token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (bucket, token) = (bucket.to_owned(), token.map(str::to_owned));
        // As large as the real ones, which are of microseconds.
        let (objects, uploads, generation) = (BTreeMap::new(), HashMap::new(), 1_360_887_759_327_000);
        let state = Arc::new(Mutex::new(State { bucket, token, objects, uploads, generation }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let Some(asked) = own::read(&stream) else { return };
                    let outcome = state.lock().unwrap().answer(&asked);
                    let reply = outcome.unwrap_or_else(|refused| refused);
                    let mut head = format!("HTTP/1.1 {} said\r\nConnection: close\r\n", reply.status);
                    if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
                        let _ = write!(head, "Content-Length: {}\r\n", reply.body.len());
                    }
                    for (name, value) in &reply.headers {
                        let _ = write!(head, "{name}: {value}\r\n");
                    }
                    let body = if asked.method == "HEAD" { &[][..] } else { &reply.body };
                    let _ = (&stream).write_all(&[head.as_bytes(), b"\r\n", body].concat());
                });
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keys of all objects, and how many uploads in parts are unfinished.
    pub fn holds(&self) -> (Vec<String>, usize) {
        let state = self.state.lock().unwrap();
        (state.objects.keys().cloned().collect(), state.uploads.len())
    }
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Outcome {
        let wanted = self.token.as_ref().map_or_else(String::new, |token| format!("Bearer {token}"));
        if asked.header("authorization") != wanted {
            return Err(refusal(401, "AuthenticationRequired", "Authentication required."));
        }
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
        let query: HashMap<String, String> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(&value.replace('+', " "))))
            .collect();
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket != self.bucket {
            return Err(refusal(404, "NoSuchBucket", "The specified bucket does not exist."));
        }
        let (key, has) = (decoded(key), |name: &str| query.contains_key(name));
        match &*asked.method {
            "GET" if key.is_empty() && query.get("list-type").is_some_and(|kind| kind == "2") => Ok(self.list(&query)),
            "GET" | "HEAD" if !key.is_empty() => self.read(&key, asked, &query),
            "PUT" if has("uploadId") => self.put_part(&key, asked, &query),
            "PUT" => self.put(&key, asked),
            "POST" if has("uploads") => Ok(self.begin(&key)),
            "POST" if has("uploadId") => self.complete(&key, asked, &query),
            "DELETE" if has("uploadId") => {
                self.uploads.remove(&query["uploadId"]).ok_or_else(no_upload)?;
                Ok(plain(204))
            }
            "DELETE" => self.objects.remove(&key).map(|_| plain(204)).ok_or_else(no_key),
            _ => Err(refusal(405, "MethodNotAllowed", "The method is not allowed here.")),
        }
    }

    fn read(&self, key: &str, asked: &Asked, query: &HashMap<String, String>) -> Outcome {
        let found = self.objects.get(key).ok_or_else(no_key)?;
        if query.get("generation").is_some_and(|wanted| *wanted != found.generation.to_string()) {
            return Err(no_key());
        }
        let [same, other] = ["if-match", "if-none-match"].map(|name| asked.header(name));
        if !same.is_empty() && same != found.etag {
            return Err(unmet());
        }
        if !other.is_empty() && other == found.etag {
            return Ok(Reply { headers: vec![("ETag", found.etag.clone())], ..plain(304) });
        }
        let len = found.bytes.len();
        let (mut status, mut range) = (200, 0..len);
        let mut headers = describe(found);
        if let Some(text) = asked.header("range").strip_prefix("bytes=") {
            let (start, end) = text.split_once('-').unwrap();
            let start: usize = start.parse().unwrap();
            if start >= len {
                return Err(refusal(416, "InvalidRange", "The requested range cannot be satisfied."));
            }
            range = start..end.parse().map_or(len, |last: usize| (last + 1).min(len));
            headers.push(("Content-Range", format!("bytes {}-{}/{len}", range.start, range.end - 1)));
            status = 206;
        }
        headers.push(("Content-Length", range.len().to_string()));
        Ok(Reply { status, headers, body: found.bytes[range].to_vec() })
    }

    fn put(&mut self, key: &str, asked: &Asked) -> Outcome {
        let is = self.objects.get(key).map_or(0, |found| found.generation);
        let wanted = asked.header("x-goog-if-generation-match");
        if !wanted.is_empty() && wanted != is.to_string() {
            return Err(unmet());
        }
        let source = asked.header("x-goog-copy-source");
        if source.is_empty() {
            let etag = format!("\"{:016x}\"", hash(&asked.bytes));
            let stored = self.store(key, asked.bytes.clone(), etag);
            return Ok(Reply { headers: describe(&stored), ..plain(200) });
        }
        let source = percent_decode_str(source.trim_start_matches('/')).decode_utf8().unwrap();
        let (bucket, from) = source.split_once('/').unwrap();
        assert_eq!(bucket, self.bucket);
        let found = self.objects.get(from).cloned().ok_or_else(no_key)?;
        let stored = self.store(key, found.bytes.to_vec(), found.etag);
        let body = format!("<CopyObjectResult><ETag>{}</ETag></CopyObjectResult>", stored.etag);
        Ok(Reply { headers: vec![("x-goog-generation", stored.generation.to_string())], ..xml(&body) })
    }

    fn store(&mut self, key: &str, bytes: Vec<u8>, etag: String) -> Stored {
        self.generation += 1;
        let stored = Stored { bytes: Arc::new(bytes), etag, generation: self.generation };
        self.objects.insert(key.to_owned(), stored.clone());
        stored
    }

    fn begin(&mut self, key: &str) -> Reply {
        self.generation += 1;
        let id = format!("upload-{}", self.generation);
        self.uploads.insert(id.clone(), Uploading { key: key.to_owned(), ..Uploading::default() });
        let (bucket, key) = (&self.bucket, escape(key));
        xml(&format!(
            "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
             </InitiateMultipartUploadResult>"
        ))
    }

    fn put_part(&mut self, key: &str, asked: &Asked, query: &HashMap<String, String>) -> Outcome {
        let upload =
            self.uploads.get_mut(&query["uploadId"]).filter(|upload| upload.key == key).ok_or_else(no_upload)?;
        let number = query["partNumber"].parse().unwrap();
        assert!((1..=10_000).contains(&number));
        upload.parts.insert(number, asked.bytes.clone());
        Ok(Reply { headers: vec![("ETag", part_etag(&asked.bytes))], ..plain(200) })
    }

    fn complete(&mut self, key: &str, asked: &Asked, query: &HashMap<String, String>) -> Outcome {
        // "Preconditions are not supported in the requests", says the page on such uploads.
        if !asked.header("x-goog-if-generation-match").is_empty() || !asked.header("if-match").is_empty() {
            return Err(refusal(400, "InvalidArgument", "Preconditions are not supported."));
        }
        let id = &query["uploadId"];
        let upload = self.uploads.get(id).filter(|upload| upload.key == key).ok_or_else(no_upload)?;
        let between = |text: &str, name: &str| {
            let (_, after) = text.split_once(&format!("<{name}>")).unwrap();
            after.split_once(&format!("</{name}>")).unwrap().0.to_owned()
        };
        let mut bytes = Vec::new();
        let named: Vec<&str> = asked.body.split("<Part>").skip(1).collect();
        for (at, part) in named.iter().enumerate() {
            let part_bytes = upload.parts.get(&between(part, "PartNumber").parse().unwrap());
            let etag = between(part, "ETag").replace("&quot;", "\"");
            let part_bytes = part_bytes.filter(|bytes| part_etag(bytes) == etag);
            let part_bytes = part_bytes.ok_or_else(|| refusal(400, "InvalidPart", "A part is not there."))?;
            if at + 1 < named.len() && part_bytes.len() < PART_BYTES_MIN {
                return Err(refusal(400, "EntityTooSmall", "A part is smaller than 5 MiB."));
            }
            bytes.extend_from_slice(part_bytes);
        }
        self.uploads.remove(id);
        // Not made of the content, as that of what came in one request is.
        let etag = format!("\"-{:x}\"", self.generation + 1);
        let stored = self.store(key, bytes, etag);
        let body = format!(
            "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag>\
             </CompleteMultipartUploadResult>",
            self.bucket,
            escape(key),
            escape(&stored.etag)
        );
        Ok(Reply { headers: vec![("x-goog-generation", stored.generation.to_string())], ..xml(&body) })
    }

    fn list(&self, query: &HashMap<String, String>) -> Reply {
        let text = |name: &str| query.get(name).map_or("", String::as_str);
        let (prefix, delimiter) = (text("prefix"), text("delimiter"));
        let after = text("start-after").max(text("continuation-token"));
        let keys_max = text("max-keys").parse().unwrap_or(KEYS_MAX).min(KEYS_MAX);
        let (mut folders, mut contents, mut last, mut more) = (BTreeSet::new(), String::new(), "", false);
        let mut count = 0;
        for (key, stored) in self.objects.iter().filter(|(key, _)| key.starts_with(prefix) && &***key > after) {
            let rest = &key[prefix.len()..];
            let folder = if delimiter.is_empty() { None } else { rest.find(delimiter) };
            let folder = folder.map(|at| &key[..prefix.len() + at + delimiter.len()]);
            // What went into a folder that the page before named is told by its name.
            if folder.is_some_and(|folder| folders.contains(folder) || after.starts_with(folder)) {
                last = key;
                continue;
            }
            if count == keys_max {
                more = true;
                break;
            }
            (count, last) = (count + 1, key);
            if let Some(folder) = folder {
                folders.insert(folder);
                continue;
            }
            let Stored { bytes, etag, generation } = stored;
            let _ = write!(
                contents,
                "<Contents><Key>{}</Key><Generation>{generation}</Generation><MetaGeneration>1</MetaGeneration>\
                 <LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
                escape(key),
                escape(etag),
                bytes.len()
            );
        }
        let token = if more {
            format!("<NextContinuationToken>{}</NextContinuationToken>", escape(last))
        } else {
            String::new()
        };
        let folders: String = folders
            .iter()
            .map(|folder| format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(folder)))
            .collect();
        xml(&format!(
            "<ListBucketResult xmlns=\"http://doc.s3.amazonaws.com/2006-03-01\"><Name>{}</Name><Prefix>{}</Prefix>\
             <IsTruncated>{more}</IsTruncated>{token}{contents}{folders}</ListBucketResult>",
            self.bucket,
            escape(prefix)
        ))
    }
}

fn describe(stored: &Stored) -> Vec<(&'static str, String)> {
    vec![
        ("ETag", stored.etag.clone()),
        ("x-goog-generation", stored.generation.to_string()),
        ("x-goog-metageneration", "1".to_owned()),
        ("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT".to_owned()),
    ]
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn part_etag(bytes: &[u8]) -> String {
    format!("\"part-{:x}\"", hash(bytes))
}

fn escape(text: &str) -> String {
    let mut escaped = text.replace('&', "&amp;");
    for (plain, entity) in [("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&apos;")] {
        escaped = escaped.replace(plain, entity);
    }
    escaped
}

fn plain(status: u16) -> Reply {
    Reply { status, headers: Vec::new(), body: Vec::new() }
}

fn xml(body: &str) -> Reply {
    let body = format!("<?xml version='1.0' encoding='UTF-8'?>{body}").into_bytes();
    Reply { body, ..plain(200) }
}

fn refusal(status: u16, code: &str, message: &str) -> Reply {
    Reply { status, ..xml(&format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>")) }
}

fn no_key() -> Reply {
    refusal(404, "NoSuchKey", "The specified key does not exist.")
}

fn no_upload() -> Reply {
    refusal(404, "NoSuchUpload", "The requested upload was not found.")
}

fn unmet() -> Reply {
    refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
}
