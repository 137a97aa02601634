//! What a model's outputs mean to a person, as plain data. Offsets count code points of the text that was given.

/// The answer to one item.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The best passage of the context.
    Passage(Passage),
    /// The best passages of the context, best first.
    Passages(Vec<Passage>),
    /// The best class.
    Class(Class),
    /// The best classes, best first.
    Classes(Vec<Class>),
    /// What was found in the text, in its order.
    Entities(Vec<Entity>),
    /// By hole of the text, what may stand there, best first.
    Fillings(Vec<Vec<Filling>>),
    /// Where the text or the picture lies among others.
    Vector(Vec<f32>),
    /// How near two texts are: the cosine of the angle between their vectors.
    Similarity(f32),
    /// What is to be seen in a picture, best first.
    Objects(Vec<Object>),
}

/// An object in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its class's name, or its number where it has none.
    pub label: String,
    /// Its class's number.
    pub class: u32,
    /// From 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels of the picture as it is looked at.
    pub box_px: [f32; 4],
    /// The same as shares of its width and height.
    pub box_share: [f32; 4],
}

/// A passage of a context that answers a question. One of no length says that the context holds no answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// The passage, as it stands in the context.
    pub text: String,
    /// From 0 to 1.
    pub score: f32,
    /// Where it begins in the context.
    pub start: usize,
    /// Where it ends: the offset of the first code point after it.
    pub end: usize,
}

/// A class of a text or of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Its name.
    pub label: String,
    /// From 0 to 1, unless the model's scores are the answer.
    pub score: f32,
}

/// A token or a group of tokens with a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Its class; a group's is without the mark of its first and its other tokens.
    pub label: String,
    /// From 0 to 1.
    pub score: f32,
    /// The tokens' text.
    pub word: String,
    /// Where it begins in the text.
    pub start: usize,
    /// The offset of the first code point after it.
    pub end: usize,
    /// Which token of its row it is; `None` for a group.
    pub index: Option<usize>,
}

/// What may stand in a hole.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// From 0 to 1.
    pub score: f32,
    /// The token's id.
    pub token: u32,
    /// The token's text.
    pub word: String,
    /// The whole text with this hole filled.
    pub text: String,
}
