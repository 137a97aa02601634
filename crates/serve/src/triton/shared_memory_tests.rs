//! Shared memory in a folder of its own: what is open, what is refused, and that no range escapes its region.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SIZE: u64 = 64;

/// Memory `pk-a` with bytes that count up, beside names that must stay shut.
fn memory() -> (TempDir, SharedMemory) {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..64).collect();
    for name in ["pk-a", "other"] {
        std::fs::write(folder.path().join(name), &content).unwrap();
    }
    std::fs::create_dir(folder.path().join("pk-folder")).unwrap();
    std::os::unix::fs::symlink("other", folder.path().join("pk-link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("pk-pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let memory = SharedMemory::within("/pk-", folder.path().to_owned()).unwrap();
    (folder, memory)
}

fn region(name: &str, key: &str, offset: u64, bytes: u64) -> Region {
    Region { name: name.to_owned(), key: key.to_owned(), offset, bytes }
}

fn span(region: &str, offset: u64, bytes: u64) -> Span {
    Span { region: region.to_owned(), offset, bytes }
}

fn read(memory: &SharedMemory, span: &Span) -> Result<Bytes> {
    memory.read(span, &mut Budget::new(1 << 20))
}

#[track_caller]
fn check_refused<T>(outcome: Result<T>, kind: ErrorKind, says: &str) {
    let error = outcome.err().expect(says);
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(says), "'{error}' does not say '{says}'");
}

#[test]
fn only_what_the_prefix_covers_is_open() {
    let (_folder, memory) = memory();
    for (key, offset, bytes, kind, says) in [
        ("other", 0, 1, ErrorKind::InvalidInput, "must begin with 'pk-'"),
        ("/other", 0, 1, ErrorKind::InvalidInput, "must begin with 'pk-'"),
        ("../pk-a", 0, 1, ErrorKind::InvalidInput, "must begin with 'pk-'"),
        ("pk-/../other", 0, 1, ErrorKind::InvalidInput, "no further '/'"),
        ("//pk-a", 0, 1, ErrorKind::InvalidInput, "must begin with 'pk-'"),
        ("pk-a\0", 0, 1, ErrorKind::InvalidInput, "must begin with 'pk-'"),
        ("", 0, 1, ErrorKind::InvalidInput, "must begin with 'pk-'"),
        ("pk-none", 0, 1, ErrorKind::NotFound, "there is no shared memory 'pk-none'"),
        ("pk-link", 0, 1, ErrorKind::InvalidInput, "cannot be opened"),
        ("pk-folder", 0, 1, ErrorKind::InvalidInput, "'pk-folder'"),
        ("pk-pipe", 0, 1, ErrorKind::InvalidInput, "is no shared memory"),
        ("pk-a", 0, SIZE + 1, ErrorKind::InvalidInput, "has 64 bytes, and 65 from byte 0"),
        ("pk-a", SIZE, 1, ErrorKind::InvalidInput, "has 64 bytes"),
        ("pk-a", u64::MAX, 1, ErrorKind::InvalidInput, "has 64 bytes"),
    ] {
        check_refused(memory.register(region("r", key, offset, bytes)), kind, says);
    }
    for prefix in ["", "/", "ab", "..", "a/bc", "sem."] {
        assert!(SharedMemory::new(prefix).is_err(), "'{prefix}'");
    }
    assert_eq!(memory.status(None).unwrap(), []);
}

#[test]
fn a_region_from_its_registration_to_its_end() {
    let (folder, memory) = memory();
    let whole = region("r", "/pk-a", 0, SIZE);
    memory.register(whole.clone()).unwrap();
    memory.register(region("part", "pk-a", 8, 4)).unwrap();
    check_refused(memory.register(whole.clone()), ErrorKind::AlreadyExists, "region 'r'");
    assert_eq!(memory.status(Some("r")).unwrap(), [whole]);
    assert_eq!(memory.status(None).unwrap().len(), 2);

    assert_eq!(read(&memory, &span("part", 1, 3)).unwrap(), [9, 10, 11][..]);
    assert_eq!(memory.write(&span("part", 1, 3), &[1, 2]).unwrap(), span("part", 1, 2));
    assert_eq!(read(&memory, &span("r", 8, 4)).unwrap(), [8, 1, 2, 11][..]);

    check_refused(memory.write(&span("part", 0, 1), &[0; 2]), ErrorKind::InvalidInput, "takes 2 bytes");
    check_refused(read(&memory, &span("none", 0, 1)), ErrorKind::NotFound, "'none' is not registered");
    check_refused(memory.status(Some("none")), ErrorKind::NotFound, "'none' is not registered");
    let mut budget = Budget::new(5);
    memory.read(&span("r", 0, 3), &mut budget).unwrap();
    check_refused(memory.read(&span("r", 0, 3), &mut budget), ErrorKind::InvalidInput, "more than 5 bytes");

    File::options().write(true).open(folder.path().join("pk-a")).unwrap().set_len(9).unwrap();
    check_refused(read(&memory, &span("part", 0, 4)), ErrorKind::InvalidInput, "has shrunk");
    check_refused(memory.write(&span("part", 0, 4), &[0; 4]), ErrorKind::InvalidInput, "has shrunk");

    memory.unregister(Some("part"));
    memory.unregister(Some("part"));
    check_refused(read(&memory, &span("part", 0, 1)), ErrorKind::NotFound, "'part'");
    memory.unregister(None);
    assert_eq!(memory.status(None).unwrap(), []);
}

#[test]
fn a_span_needs_its_size_and_no_more() {
    let region = || Some("r".to_owned());
    assert_eq!(Span::from_parameters(None, Some(1), Some(2)).unwrap(), None);
    assert_eq!(Span::from_parameters(region(), None, Some(2)).unwrap(), Some(span("r", 0, 2)));
    check_refused(Span::from_parameters(region(), Some(1), None), ErrorKind::InvalidInput, "shared_memory_byte_size");
}

/// Mostly numbers near the region's edges, where mistakes live.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..SIZE + 8, any::<u64>(), Just(u64::MAX)]
}

proptest! {
    #[test]
    fn no_span_reaches_outside_its_region(start in 0..SIZE, length in 0..SIZE, offset in number(), bytes in number()) {
        let (folder, memory) = memory();
        let length = length.min(SIZE - start);
        memory.register(region("r", "pk-a", start, length)).unwrap();
        let span = span("r", offset, bytes);
        let inside = u128::from(offset) + u128::from(bytes) <= u128::from(length);
        let got = read(&memory, &span);
        prop_assert_eq!(got.is_ok(), inside);
        if let Ok(got) = got {
            let want: Vec<u8> = (start + offset..start + offset + bytes).map(|byte| byte as u8).collect();
            prop_assert_eq!(&got[..], &want[..]);
        }
        let data = vec![255; usize::try_from(bytes.min(2 * SIZE)).unwrap()];
        prop_assert_eq!(memory.write(&span, &data).is_ok(), inside);
        let after = std::fs::read(folder.path().join("pk-a")).unwrap();
        for (at, byte) in (0u64..).zip(after) {
            let written = inside && (start + offset..start + offset + bytes).contains(&at);
            prop_assert_eq!(byte, if written { 255 } else { at as u8 });
        }
    }
}
