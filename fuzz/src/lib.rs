//! Every reader of what strangers send, by name. The tests feed them with what is in `seeds/` and with changes of it; `make fuzz`
//! has libFuzzer look for more, which sees what code a change reaches.

use std::path::PathBuf;

use engine::{Error, ErrorKind};
use pipeline::picture::{self, Bounds};
use work::body;
use work::task::{Task, Template};

/// A reader, given all of what was sent. It panics when it does what it must not do.
pub type Reader = fn(&[u8]);

/// Every reader, with the name of what it reads, which is also that of its folder in `seeds/`.
pub fn readers() -> impl Iterator<Item = (&'static str, Reader)> {
    let ours: [(&str, Reader); 2] = [("picture", picture), ("queue-body", queue_body)];
    ours.into_iter().chain(serve::untrusted::readers()).chain(store::untrusted::READERS)
}

/// Where the seeds of the reader called `name` are: files that it reads, and files that once broke it.
pub fn seeds(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name)
}

/// A picture takes what its reader was told it would, and no more than there is.
fn picture(bytes: &[u8]) {
    const ROOM_BYTES: usize = 16 << 20;
    let bounds = Bounds { pixels_max: 1 << 20, side_px_max: 4096 };
    let mut taken = 0;
    let mut reserve = |bytes: usize| {
        taken += bytes;
        if taken > ROOM_BYTES { Err(Error::new(ErrorKind::Exhausted, "there is no more room")) } else { Ok(()) }
    };
    let _ = picture::decode(bytes, &bounds, &mut reserve);
}

fn queue_body(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let template = Template { model: Some("m".to_owned()), ..Template::default() };
    let _ = (body::read(text, "message", &template), Task::from_json(text));
}
