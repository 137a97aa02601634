//! An answer as JSON, in the words of the reference libraries' pipelines.

use pipeline::{Answer, Class, Entity, Filling, Object, Passage};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// An [`Answer`] in its JSON form, whichever API it goes out by.
pub struct Told<'a>(pub &'a Answer);

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Answer::Passage(passage) => Item(passage).serialize(serializer),
            Answer::Passages(passages) => list(serializer, passages),
            Answer::Class(class) => Item(class).serialize(serializer),
            Answer::Classes(classes) => list(serializer, classes),
            Answer::Entities(entities) => list(serializer, entities),
            // As in the reference, the fillings of a single hole stand alone.
            Answer::Fillings(holes) => match &holes[..] {
                [only] => list(serializer, only),
                holes => {
                    let mut out = serializer.serialize_seq(Some(holes.len()))?;
                    holes.iter().try_for_each(|hole| out.serialize_element(&List(hole)))?;
                    out.end()
                }
            },
            Answer::Vector(vector) => vector.serialize(serializer),
            Answer::Objects(objects) => list(serializer, objects),
            Answer::Similarity(score) => {
                let mut out = serializer.serialize_map(Some(1))?;
                out.serialize_entry("score", score)?;
                out.end()
            }
        }
    }
}

struct Item<'a, T>(&'a T);

struct List<'a, T>(&'a [T]);

impl<'a, T> Serialize for List<'a, T>
where
    Item<'a, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        list(serializer, self.0)
    }
}

fn list<'a, S: Serializer, T>(serializer: S, items: &'a [T]) -> Result<S::Ok, S::Error>
where
    Item<'a, T>: Serialize,
{
    serializer.collect_seq(items.iter().map(Item))
}

impl Serialize for Item<'_, Passage> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(4))?;
        out.serialize_entry("score", &self.0.score)?;
        out.serialize_entry("start", &self.0.start)?;
        out.serialize_entry("end", &self.0.end)?;
        out.serialize_entry("answer", &self.0.text)?;
        out.end()
    }
}

impl Serialize for Item<'_, Class> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(2))?;
        out.serialize_entry("label", &self.0.label)?;
        out.serialize_entry("score", &self.0.score)?;
        out.end()
    }
}

impl Serialize for Item<'_, Entity> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        let name = if self.0.index.is_some() { "entity" } else { "entity_group" };
        out.serialize_entry(name, &self.0.label)?;
        out.serialize_entry("score", &self.0.score)?;
        if let Some(index) = self.0.index {
            out.serialize_entry("index", &index)?;
        }
        out.serialize_entry("word", &self.0.word)?;
        out.serialize_entry("start", &self.0.start)?;
        out.serialize_entry("end", &self.0.end)?;
        out.end()
    }
}

impl Serialize for Item<'_, Object> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(5))?;
        out.serialize_entry("score", &self.0.score)?;
        out.serialize_entry("label", &self.0.label)?;
        out.serialize_entry("class", &self.0.class)?;
        out.serialize_entry("box", &Corners(&self.0.box_px))?;
        out.serialize_entry("box_normalised", &Corners(&self.0.box_share))?;
        out.end()
    }
}

/// Left, top, right and bottom, in the words of the reference.
struct Corners<'a>(&'a [f32; 4]);

impl Serialize for Corners<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(["xmin", "ymin", "xmax", "ymax"].iter().zip(self.0))
    }
}

impl Serialize for Item<'_, Filling> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(4))?;
        out.serialize_entry("score", &self.0.score)?;
        out.serialize_entry("token", &self.0.token)?;
        out.serialize_entry("token_str", &self.0.word)?;
        out.serialize_entry("sequence", &self.0.text)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_in_the_words_of_the_references() {
        let passage = || Passage { text: "oats".to_owned(), score: 0.1, start: 3, end: 7 };
        let class = || Class { label: "good".to_owned(), score: 0.75 };
        let entity =
            |index| Entity { label: "PER".to_owned(), score: 0.5, word: "Ada".to_owned(), start: 0, end: 3, index };
        let filling = || Filling { score: 0.5, token: 7, word: "hay".to_owned(), text: "eats hay".to_owned() };
        let object = || Object {
            label: "cat".to_owned(),
            class: 15,
            score: 0.5,
            box_px: [1.0, 2.0, 3.0, 4.0],
            box_share: [0.1, 0.2, 0.3, 0.4],
        };
        for (answer, want) in [
            (Answer::Passage(passage()), r#"{"score":0.1,"start":3,"end":7,"answer":"oats"}"#),
            (Answer::Passages(vec![passage()]), r#"[{"score":0.1,"start":3,"end":7,"answer":"oats"}]"#),
            (Answer::Class(class()), r#"{"label":"good","score":0.75}"#),
            (Answer::Classes(vec![class()]), r#"[{"label":"good","score":0.75}]"#),
            (
                Answer::Entities(vec![entity(Some(1)), entity(None)]),
                concat!(
                    r#"[{"entity":"PER","score":0.5,"index":1,"word":"Ada","start":0,"end":3},"#,
                    r#"{"entity_group":"PER","score":0.5,"word":"Ada","start":0,"end":3}]"#
                ),
            ),
            (
                Answer::Fillings(vec![vec![filling()]]),
                r#"[{"score":0.5,"token":7,"token_str":"hay","sequence":"eats hay"}]"#,
            ),
            (Answer::Fillings(vec![vec![], vec![]]), "[[],[]]"),
            (Answer::Vector(vec![0.1, -1.0]), "[0.1,-1.0]"),
            (Answer::Similarity(0.25), r#"{"score":0.25}"#),
            (
                Answer::Objects(vec![object()]),
                concat!(
                    r#"[{"score":0.5,"label":"cat","class":15,"box":{"xmin":1.0,"ymin":2.0,"xmax":3.0,"ymax":4.0},"#,
                    r#""box_normalised":{"xmin":0.1,"ymin":0.2,"xmax":0.3,"ymax":0.4}}]"#
                ),
            ),
        ] {
            assert_eq!(serde_json::to_string(&Told(&answer)).unwrap(), want);
        }
    }
}
