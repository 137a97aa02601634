//! What every kind of place does alike. A back end is done when it passes [`all`]. Each function has a part of the place to
//! itself, so that they run side by side, and panics with what was wrong.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests: what does not hold is to panic")]

use std::collections::HashMap;

use bytes::Bytes;
use engine::ErrorKind;

use crate::{Object, Place, Tag, When};

/// Runs all of them, one after the other.
pub fn all(place: &Place) {
    objects_are_written_read_and_removed(place);
    what_is_not_there_is_said(place);
    names_are_taken_as_they_are(place);
    conditions_hold(place);
    one_of_many_writers_wins(place);
    a_replaced_object_is_never_mixed(place);
    ranges_come_whole_and_in_order(place);
    uploads_appear_at_their_end(place);
    uploads_end_under_a_condition(place);
    listings_go_on_page_by_page(place);
}

/// Bytes that differ from place to place and from seed to seed.
pub fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(len).collect::<Vec<u8>>().into()
}

fn whole(place: &Place, object: &Object) -> Bytes {
    place.read(object, 0..object.bytes).unwrap()
}

/// What is written is what is read, in all or in part, until it is removed.
pub fn objects_are_written_read_and_removed(place: &Place) {
    for (key, len) in [("plain/empty", 0), ("plain/one", 1), ("plain/some", 100_000)] {
        let want = bytes(1, len);
        let tag = place.put(key, want.clone(), &When::Always).unwrap();
        let object = place.head(key).unwrap();
        assert_eq!((&*object.key, object.bytes, &object.tag.etag), (key, len as u64, &tag.etag));
        assert!(object.modified.is_some());
        assert_eq!(whole(place, &object), want, "{key}");
        let (found, got) = place.get(key, 1 << 20).unwrap();
        assert_eq!((found.bytes, found.tag.etag, got), (object.bytes, object.tag.etag.clone(), want.clone()));
        for range in [0..0, 0..object.bytes / 2, object.bytes / 2..object.bytes, object.bytes..object.bytes] {
            let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            assert_eq!(place.read(&object, range).unwrap(), want[start..end], "{key} {start}..{end}");
        }
        assert_eq!(place.get_unless(key, 1 << 20, &object.tag).unwrap(), None);
        assert!(place.get_unless(key, 1 << 20, &Tag::default()).unwrap().is_some());
        if len > 1 {
            let (peeked, bytes) = place.peek(key, object.bytes - 10..object.bytes).unwrap();
            assert_eq!(
                (peeked.bytes, &peeked.tag.etag, bytes),
                (object.bytes, &object.tag.etag, want.slice(len - 10..))
            );
        }
        let beyond = place.read(&object, 0..object.bytes + 1).unwrap_err();
        assert_eq!(beyond.kind, ErrorKind::InvalidInput, "{beyond}");
        place.delete(key).unwrap();
        place.delete(key).unwrap();
        assert_eq!(place.head(key).unwrap_err().kind, ErrorKind::NotFound);
        // Whoever looked at it before it went is told so.
        if len > 0 {
            let gone = place.read(&object, 0..1).unwrap_err();
            assert_eq!(gone.kind, ErrorKind::NotFound, "{gone}");
        }
    }
    place.put("plain/large", bytes(1, 100), &When::Always).unwrap();
    assert_eq!(place.get("plain/large", 99).unwrap_err().kind, ErrorKind::InvalidInput);
}

/// An object that is not there is named.
pub fn what_is_not_there_is_said(place: &Place) {
    for error in [place.head("none/such").unwrap_err(), place.get("none/such", 10).unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        assert!(error.message.contains(&place.url("none/such")), "{error}");
    }
    assert_eq!(place.list("none/").map(|page| page.unwrap().objects.len()).sum::<usize>(), 0);
}

/// Keys are no patterns, no addresses and no encodings.
pub fn names_are_taken_as_they_are(place: &Place) {
    let names = ["a b+c", "résumé-2 (final).v3", "100%25", "q?x=1&y=2#z", "'quotes\"", "~[x]{y}^`|", "*", "日本"];
    for (seed, name) in names.iter().enumerate() {
        place.put(&format!("names/{name}"), bytes(seed as u64, 10), &When::Absent).unwrap();
    }
    for (seed, name) in names.iter().enumerate() {
        let (_, got) = place.get(&format!("names/{name}"), 10).unwrap();
        assert_eq!(got, bytes(seed as u64, 10), "{name}");
    }
    let mut want: Vec<_> = names.iter().map(|name| format!("names/{name}")).collect();
    want.sort_unstable();
    let listed: Vec<_> = place.list("names/").flat_map(|page| page.unwrap().objects).map(|object| object.key).collect();
    assert_eq!(listed, want);
    for key in ["", "names/..", "names//a", "names/", "../names"] {
        assert!(place.put(key, Bytes::new(), &When::Always).is_err(), "{key:?}");
    }
}

/// A condition that does not hold changes nothing.
pub fn conditions_hold(place: &Place) {
    let key = "when/object";
    let first = place.put(key, bytes(1, 10), &When::Absent).unwrap();
    let again = place.put(key, bytes(2, 10), &When::Absent).unwrap_err();
    assert_eq!(again.kind, ErrorKind::AlreadyExists, "{again}");
    assert!(again.message.contains(&place.url(key)), "{again}");
    let second = place.put(key, bytes(2, 11), &When::Same(first.clone())).unwrap();
    let stale = place.put(key, bytes(3, 12), &When::Same(first.clone())).unwrap_err();
    assert_eq!(stale.kind, ErrorKind::FailedPrecondition, "{stale}");
    assert_eq!(place.get(key, 100).unwrap().1, bytes(2, 11));
    let third = place.put(key, bytes(3, 12), &When::Same(second)).unwrap();
    assert_eq!(place.head(key).unwrap().tag.etag, third.etag);
    // By its tag alone, as it is written down elsewhere.
    let alone = |tag: Tag| When::Same(Tag { version: None, ..tag });
    let stale = place.put(key, bytes(4, 13), &alone(first.clone())).unwrap_err();
    assert_eq!(stale.kind, ErrorKind::FailedPrecondition, "{stale}");
    assert!(stale.message.contains(&place.url(key)), "{stale}");
    place.put(key, bytes(4, 13), &alone(third)).unwrap();
    assert_eq!(place.get(key, 100).unwrap().1, bytes(4, 13));
    let nobody = place.put("when/nobody", bytes(3, 12), &alone(first.clone())).unwrap_err();
    assert_eq!(nobody.kind, ErrorKind::FailedPrecondition, "{nobody}");
    let nobody = place.put("when/nobody", bytes(3, 12), &When::Same(first)).unwrap_err();
    assert_eq!(nobody.kind, ErrorKind::FailedPrecondition, "{nobody}");
    assert_eq!(place.head("when/nobody").unwrap_err().kind, ErrorKind::NotFound);
}

/// Of those who write what is not there, at the same time, one does.
pub fn one_of_many_writers_wins(place: &Place) {
    for round in 0..3 {
        let key = format!("race/{round}");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let key = &key;
            let write = |seed| move || (seed, place.put(key, bytes(seed, 1000), &When::Absent));
            let writers: Vec<_> = (0..6).map(|seed| scope.spawn(write(seed))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let won: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(seed, _)| *seed).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        for (_, outcome) in &outcomes {
            // A service may ask the others to try again, which is as good.
            let kind = outcome.as_ref().err().map(|error| error.kind);
            assert!(matches!(kind, None | Some(ErrorKind::AlreadyExists | ErrorKind::Unavailable)), "{outcomes:?}");
        }
        assert_eq!(place.get(&key, 1000).unwrap().1, bytes(won[0], 1000));
    }
}

/// Whoever reads an object that is replaced meanwhile gets an error, and nothing of the new one.
pub fn a_replaced_object_is_never_mixed(place: &Place) {
    let key = "replaced/object";
    let old = bytes(1, 3 << 20);
    place.put(key, old.clone(), &When::Always).unwrap();
    let object = place.head(key).unwrap();
    assert_eq!(place.read(&object, 0..1000).unwrap(), old[..1000]);
    let mut seen = HashMap::new();
    let ranges = (0..3).map(|part| part << 20..(part + 1) << 20).collect();
    let error = place.fetch(&object, ranges, 1, &mut |offset, bytes| {
        if seen.is_empty() {
            // The same size, so that nothing but its content tells it from the other.
            place.put(key, self::bytes(2, 3 << 20), &When::Always)?;
        }
        seen.insert(offset, bytes);
        Ok(())
    });
    for (offset, bytes) in &seen {
        let start = usize::try_from(*offset).unwrap();
        assert_eq!(old[start..start + bytes.len()], bytes[..], "{offset}");
    }
    let error = error.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
    assert!(error.message.contains(&place.url(key)), "{error}");
    assert_eq!(place.read(&object, 0..10).unwrap_err().kind, ErrorKind::FailedPrecondition);
    assert_eq!(whole(place, &place.head(key).unwrap()), bytes(2, 3 << 20));
}

/// Ranges are read side by side, each of them in order and all of it; an error of whoever takes them ends it.
pub fn ranges_come_whole_and_in_order(place: &Place) {
    const LEN: usize = 5_000_001;
    let want = bytes(7, LEN);
    place.put("ranges/object", want.clone(), &When::Always).unwrap();
    let object = place.head("ranges/object").unwrap();
    for (part, parallel) in [(LEN, 1), (1 << 20, 4), (999_983, 16), (LEN / 2, 1)] {
        let ranges: Vec<_> = (0..LEN).step_by(part).map(|at| at as u64..(at + part).min(LEN) as u64).collect();
        let mut next: HashMap<u64, u64> = ranges.iter().map(|range| (range.start, range.end)).collect();
        let mut got = vec![0; LEN];
        let mut fill = |offset: u64, bytes: Bytes| {
            let end = next.remove(&offset).expect("in order within a range");
            let (start, after) = (usize::try_from(offset).unwrap(), offset + bytes.len() as u64);
            got[start..start + bytes.len()].copy_from_slice(&bytes);
            if after < end {
                next.insert(after, end);
            }
            Ok(())
        };
        place.fetch(&object, ranges, parallel, &mut fill).unwrap();
        assert!(next.is_empty() && got == want, "{part} {parallel}");
    }
    let full = |_, _| Err(engine::Error::new(ErrorKind::Exhausted, "no more"));
    let all = 0..LEN as u64;
    let error = place.fetch(&object, vec![all], 4, &mut { full }).unwrap_err();
    assert!(error.kind == ErrorKind::Exhausted && error.message.contains("no more"), "{error}");
}

/// An upload is not seen before it is finished, whatever its size, and never when it is given up.
pub fn uploads_appear_at_their_end(place: &Place) {
    for (key, len) in [("upload/none", 0), ("upload/small", 1000), ("upload/large", (16 << 20) + 5)] {
        let want = bytes(9, len);
        let mut upload = place.upload(key, None).unwrap();
        want.chunks(300_001).for_each(|piece| upload.append(piece).unwrap());
        assert_eq!(place.head(key).unwrap_err().kind, ErrorKind::NotFound);
        let tag = upload.finish(&When::Always).unwrap();
        let object = place.head(key).unwrap();
        assert_eq!((object.bytes, &object.tag.etag), (len as u64, &tag.etag), "{key}");
        assert_eq!(whole(place, &object), want, "{key}");
        let mut dropped = place.upload(key, Some(1 << 30)).unwrap();
        dropped.append(&bytes(10, 9 << 20)).unwrap();
        drop(dropped);
        assert_eq!(place.head(key).unwrap().tag, object.tag, "{key}");
    }
    let keys: Vec<_> = place.list("upload/").flat_map(|page| page.unwrap().objects).map(|object| object.key).collect();
    assert_eq!(keys, ["upload/large", "upload/none", "upload/small"]);
}

/// The condition of an upload is looked at when it ends, whether it has one part or several.
pub fn uploads_end_under_a_condition(place: &Place) {
    for (key, len) in [("ends/small", 1000), ("ends/large", 9 << 20)] {
        let write = |seed, when: &When| {
            let mut upload = place.upload(key, Some(len as u64)).unwrap();
            upload.append(&bytes(seed, len)).unwrap();
            upload.finish(when)
        };
        let mut late = place.upload(key, None).unwrap();
        late.append(&bytes(0, len)).unwrap();
        let first = write(1, &When::Absent).unwrap();
        assert_eq!(late.finish(&When::Absent).unwrap_err().kind, ErrorKind::AlreadyExists, "{key}");
        assert_eq!(write(2, &When::Absent).unwrap_err().kind, ErrorKind::AlreadyExists, "{key}");
        assert_eq!(place.head(key).unwrap().tag.etag, first.etag);
        let Tag { etag, version } = write(3, &When::Same(first.clone())).unwrap();
        assert_eq!(write(4, &When::Same(first)).unwrap_err().kind, ErrorKind::FailedPrecondition, "{key}");
        let object = place.head(key).unwrap();
        assert_eq!((&object.tag.etag, version.is_none() || object.tag.version == version), (&etag, true));
        assert_eq!(whole(place, &object), bytes(3, len));
    }
}

/// Listings are complete, in the order of bytes within a folder, and may begin anywhere in one.
pub fn listings_go_on_page_by_page(place: &Place) {
    let mut want: Vec<String> = (0..1040).map(|number| format!("list/many/{number:05}")).collect();
    std::thread::scope(|scope| {
        for part in want.chunks(130) {
            scope.spawn(move || {
                part.iter().for_each(|key| drop(place.put(key, key.clone().into(), &When::Always).unwrap()));
            });
        }
    });
    for key in ["list/man", "list/many-more", "list/many.x", "list/other/deep/er", "list/other/deep-er", "listless"] {
        place.put(key, Bytes::new(), &When::Always).unwrap();
    }
    let keys = |listing: crate::Listing<'_>| -> Vec<String> {
        listing.flat_map(|page| page.unwrap().objects).map(|object| object.key).collect()
    };
    let listed = keys(place.list("list/many/"));
    let first = listed.iter().zip(&want).position(|(is, want)| is != want);
    assert_eq!((listed.len(), first), (want.len(), None), "{:?}", first.map(|at| &listed[at]));
    let later = keys(place.list_after("list/many/", "list/many/00998"));
    assert!(later == want[999..], "{} keys from {:?}", later.len(), later.first());
    assert_eq!(keys(place.list("list/many/0000")), want[..10]);
    // What a listing says of an object is what it says of itself, and enough to read it by.
    let first = place.list("list/many/").next().unwrap().unwrap().objects.swap_remove(0);
    assert_eq!(place.head(&first.key).unwrap().tag.etag, first.tag.etag);
    assert_eq!(whole(place, &first), first.key.as_bytes());
    want.extend(["list/man", "list/many-more", "list/many.x"].map(str::to_owned));
    want.extend(["list/other/deep/er", "list/other/deep-er"].map(str::to_owned));
    want.sort_unstable();
    // Where a folder's name begins another's, services differ in what comes first.
    let mut all = keys(place.list("list/"));
    all.sort_unstable();
    assert_eq!(all, want);
    let pages: Vec<_> = place.list_folder("list").map(Result::unwrap).collect();
    let folders: Vec<_> = pages.iter().flat_map(|page| &page.folders).collect();
    let own: Vec<_> = pages.iter().flat_map(|page| &page.objects).map(|object| &*object.key).collect();
    assert_eq!(folders, ["many", "other"]);
    assert_eq!(own, ["list/man", "list/many-more", "list/many.x"]);
    assert!(keys(place.list("")).len() >= want.len());
}
