//! What is in `seeds/`, and changes of it at random, given to each reader.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// What formats are made of, and numbers that are too large.
const PIECES: [&[u8]; 12] = [
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x7f",
    b"\x80\x80\x80\x80\x08",
    b"[",
    b"{\"",
    b"}",
    b"\\u",
    b"18446744073709551615",
    b"-1",
    b"1e999",
    b"\n",
];

#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, usize),
    Remove(Index, u8),
    Repeat(Index, u8),
    Cut(Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        let range = |index: &Index, length: u8| at(index)..(at(index) + usize::from(length)).min(bytes.len());
        match self {
            Self::Set(index, byte) => {
                let at = at(index);
                if let Some(place) = bytes.get_mut(at) {
                    *place = *byte;
                }
            }
            Self::Insert(index, piece) => {
                let at = at(index);
                bytes.splice(at..at, PIECES[*piece].iter().copied());
            }
            Self::Remove(index, length) => {
                let range = range(index, *length);
                bytes.drain(range);
            }
            Self::Repeat(index, length) => {
                let range = range(index, *length);
                let piece = bytes[range.clone()].to_vec();
                bytes.splice(range.start..range.start, piece);
            }
            Self::Cut(index) => bytes.truncate(at(index)),
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(index, byte)| Change::Set(index, byte)),
        (any::<Index>(), 0..PIECES.len()).prop_map(|(index, piece)| Change::Insert(index, piece)),
        (any::<Index>(), any::<u8>()).prop_map(|(index, length)| Change::Remove(index, length)),
        (any::<Index>(), any::<u8>()).prop_map(|(index, length)| Change::Repeat(index, length)),
        any::<Index>().prop_map(Change::Cut),
    ];
    prop::collection::vec(change, 0..6)
}

#[test]
fn every_reader_bears_its_seeds_and_changes_of_them() {
    for (name, reader) in fuzz::readers() {
        let folder = fuzz::seeds(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let seeds: Vec<Vec<u8>> = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        seeds.iter().for_each(|seed| reader(seed));
        let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&(prop::sample::select(seeds), changes()), |(mut bytes, changes)| {
            changes.iter().for_each(|change| change.apply(&mut bytes));
            reader(&bytes);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
