//! `packhorse predict`

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pipeline::picture::draw::{Canvas, Mark, zoom_for};
use pipeline::picture::{Bounds, decode, to_png};
use pipeline::{Answer, Input, Options, Setting};
use serve::people::Told;
use serve::{Ask, Origin, Scheduler};

use super::print_json;
use crate::Outcome;
use crate::exit::Exit;
use crate::node::{self, Place};

#[derive(clap::Args)]
#[command(after_help = "A text that is '-' is read from standard input. The answer is on standard output.")]
pub(crate) struct Args {
    /// The model's name
    model: String,
    /// The models: a store of packs, or a repository as 'packhorse serve' takes it
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// The model's version [default: the newest]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// The text
    #[arg(long, conflicts_with_all = ["question", "context"])]
    text: Option<String>,
    /// The second text, for models that take two
    #[arg(long, requires = "text", value_name = "TEXT")]
    text_pair: Option<String>,
    /// The question
    #[arg(long, requires = "context", value_name = "TEXT")]
    question: Option<String>,
    /// Where its answer is looked for
    #[arg(long, requires = "question", value_name = "TEXT")]
    context: Option<String>,
    /// The picture: a JPEG, PNG, WebP or GIF file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "question", "context"])]
    image: Option<PathBuf>,
    /// The score from which on an object is told
    #[arg(long, requires = "image")]
    threshold: Option<f32>,
    /// Draw what was found into this PNG file
    #[arg(long, requires = "image", value_name = "FILE")]
    draw: Option<PathBuf>,
    /// How it is to be answered, such as top_k=3; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = option)]
    option: Vec<(String, String)>,
    /// Print the answer as one line of JSON
    #[arg(long)]
    json: bool,
}

fn option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("an option is of the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(args: &Args) -> Outcome {
    let input = args.input()?;
    let place = Place::of(&args.store, None);
    let scheduler = node::start_for_one(place, &args.model, args.version)?;
    let answer = answer(&scheduler, args, input);
    scheduler.drain(Duration::from_secs(5));
    let answer = answer?;
    if let Some(target) = &args.draw {
        draw(args, &answer, target)?;
    }
    if args.json {
        return print_json(&Told(&answer));
    }
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(for_people(&answer).as_bytes()).and_then(|()| out.flush())?)
}

impl Args {
    fn input(&self) -> Result<Input, Exit> {
        if let Some(path) = &self.image {
            return Ok(Input::Picture(file(path)?.into()));
        }
        let (first, second) = match (&self.text, &self.question) {
            (Some(text), _) => (text, &self.text_pair),
            (None, Some(question)) => (question, &self.context),
            (None, None) => {
                let missing = "nothing is asked; give --text, --image, or --question and --context";
                return Err(Exit::Configuration(missing.to_owned()));
            }
        };
        if first == "-" && second.as_deref() == Some("-") {
            return Err(Exit::Configuration("only one text can be read from standard input".to_owned()));
        }
        Ok(match second {
            None => Input::Text(read(first)?),
            Some(second) => Input::Pair(read(first)?, read(second)?),
        })
    }
}

fn file(path: &Path) -> Result<Vec<u8>, Exit> {
    std::fs::read(path).map_err(|error| Exit::Configuration(format!("{}: cannot be read: {error}", path.display())))
}

/// Draws the objects of `answer` on the picture that was asked about.
fn draw(args: &Args, answer: &Answer, target: &Path) -> Outcome {
    let Answer::Objects(objects) = answer else {
        return Err(Exit::Configuration("only what a detector finds can be drawn; leave --draw out".to_owned()));
    };
    let Some(source) = &args.image else { return Ok(()) };
    let mut picture = decode(&file(source)?, &Bounds::default(), &mut |_| Ok(()))?;
    let (width, height) = (picture.width, picture.height);
    let mark = |object: &pipeline::Object| Mark {
        box_px: object.box_px,
        text: format!("{} {:.2}", object.label, object.score),
        class: object.class,
    };
    let marks: Vec<Mark> = objects.iter().map(mark).collect();
    let mut canvas = Canvas::new(&mut picture.pixels, width as usize, height as usize);
    canvas.marks(&marks, [1.0, 1.0], zoom_for(width, height));
    let png = to_png(&picture)?;
    std::fs::write(target, png)
        .map_err(|error| Exit::Failed(format!("{}: cannot be written: {error}", target.display())))
}

/// `text`, or what standard input holds.
fn read(text: &str) -> Result<String, Exit> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut text = String::new();
    let unreadable = |source| Exit::Configuration(format!("standard input is no text that can be read: {source}"));
    std::io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn answer(scheduler: &Scheduler, args: &Args, input: Input) -> Result<Answer, Exit> {
    let threshold = args.threshold.map(|value| ("threshold".to_owned(), Setting::Number(f64::from(value))));
    let options = args.option.iter().map(|(name, value)| (name.clone(), Setting::Text(value.clone())));
    let options: Options = options.chain(threshold).collect();
    let ask = Ask {
        model: args.model.clone(),
        version: args.version,
        inputs: vec![input],
        options,
        priority: 0,
        deadline: None,
        origin: Origin::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|source| Exit::Failed(format!("no runtime for one request: {source}")))?;
    let mut answers = runtime.block_on(scheduler.answer(ask))?.answers;
    answers.pop().ok_or_else(|| Exit::Failed("the model gave no answer".to_owned()))
}

/// `answer` as lines.
fn for_people(answer: &Answer) -> String {
    let passage = |passage: &pipeline::Passage| match passage.text.is_empty() {
        true => format!("{:.4}  (no answer)\n", passage.score),
        false => format!("{:.4}  {}  ({} to {})\n", passage.score, passage.text, passage.start, passage.end),
    };
    let class = |class: &pipeline::Class| format!("{:.4}  {}\n", class.score, class.label);
    let entity = |entity: &pipeline::Entity| {
        format!("{:.4}  {}  {}  ({} to {})\n", entity.score, entity.label, entity.word, entity.start, entity.end)
    };
    match answer {
        Answer::Passage(one) => passage(one),
        Answer::Passages(all) => all.iter().map(passage).collect(),
        Answer::Class(one) => class(one),
        Answer::Classes(all) => all.iter().map(class).collect(),
        Answer::Entities(all) => all.iter().map(entity).collect(),
        Answer::Fillings(holes) => holes
            .iter()
            .flatten()
            .map(|filling| format!("{:.4}  {}  {}\n", filling.score, filling.word, filling.text))
            .collect(),
        Answer::Vector(vector) => {
            let values: Vec<String> = vector.iter().map(f32::to_string).collect();
            format!("{}\n", values.join(" "))
        }
        Answer::Similarity(score) => format!("{score:.4}\n"),
        Answer::Objects(objects) => {
            let line = |object: &pipeline::Object| {
                let [left, top, right, bottom] = object.box_px;
                let (score, label) = (object.score, &object.label);
                format!("{score:.4}  {label}  ({left:.1}, {top:.1}) to ({right:.1}, {bottom:.1})\n")
            };
            objects.iter().map(line).collect()
        }
    }
}
