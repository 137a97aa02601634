//! From what was typed to what holds: a flag comes before the environment, that before the file, that before the default.

use std::collections::BTreeMap;
use std::fmt;

use serve::Control;
use store::Serving;

use super::file::{Contents, contents};
use super::models::Models;
use super::settings::{Setting, TABLE};
use super::value::Value;
use super::{Raw, Settings};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Flag(String),
    Variable(String),
    File { path: String, line: usize },
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::File { path, line } => write!(f, "file {path}, line {line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What was given for one setting, and where.
pub(super) struct Given {
    texts: Vec<String>,
    source: Source,
}

/// Every value and where it came from.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    /// In the order of the table.
    pub(super) sources: Vec<Source>,
    pub(super) models: Models,
}

impl Resolved {
    /// Decides what holds.
    ///
    /// # Errors
    /// The first setting that is unknown, wrong or missing: its name, value and source, and what is allowed.
    pub(crate) fn new(raw: &Raw) -> Result<Self, String> {
        let (mut file, mut models) = (BTreeMap::new(), Models::default());
        if let Some((path, text)) = &raw.file {
            let Contents { entries, models: told } = contents(path, text)?;
            models = told;
            for entry in entries {
                let source = Source::File { path: path.clone(), line: entry.line };
                file.insert(entry.setting.field, Given { texts: entry.texts, source });
            }
        }
        let given: Vec<_> = TABLE
            .iter()
            .map(|setting| {
                let typed = flag(raw, setting).or_else(|| variable(raw, setting));
                let given = typed.or_else(|| file.remove(setting.field)).unwrap_or_else(|| default(setting));
                (setting, given)
            })
            .collect();
        let settings = Settings::read(&given)?;
        let resolved = Self { settings, sources: given.into_iter().map(|(_, given)| given.source).collect(), models };
        resolved.agree()?;
        Ok(resolved)
    }

    /// How the models named in the file are served.
    pub(crate) fn servings(&self) -> &BTreeMap<String, Serving> {
        &self.models.servings
    }

    /// What no setting can tell for itself.
    fn agree(&self) -> Result<(), String> {
        let Settings { http, grpc, admin, manage, control, load, .. } = &self.settings;
        let listeners =
            [("http", Some(http)), ("grpc", Some(grpc)), ("admin", Some(admin)), ("manage", manage.as_ref())];
        for (index, &(one, address)) in listeners.iter().enumerate() {
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            if let Some((other, _)) = listeners[index + 1..].iter().find(|(_, same)| *same == Some(address)) {
                return Err(format!("{one} and {other} are both {address}; give one of them another port, or port 0"));
            }
        }
        let (budget, bodies) = (self.settings.memory_budget_bytes(), self.settings.bodies_bytes());
        if bodies >= budget {
            let (one, other) = (self.source("bodies_bytes_max"), self.source("memory_budget_bytes"));
            return Err(format!(
                "bodies-bytes-max is {bodies} ({one}), which leaves nothing of memory-budget-bytes, {budget} ({other}), to \
                 models; lower the one or raise the other"
            ));
        }
        let (lame_duck, grace) = (self.settings.lame_duck_s.get(), self.settings.grace_s.get());
        if lame_duck >= grace && !grace.is_zero() && *self.source("lame_duck_s") != Source::Default {
            let (one, other) = (self.source("lame_duck_s"), self.source("grace_s"));
            return Err(format!(
                "lame-duck-s is {} ({one}), which leaves nothing of grace-s, {} ({other}), to finish what was accepted; \
                 lower the one or raise the other",
                lame_duck.as_secs_f64(),
                grace.as_secs_f64()
            ));
        }
        if !load.is_empty() && *control != Control::Explicit {
            let source = self.source("load");
            return Err(format!("load is set ({source}), but control is not 'explicit'; set that too, or remove load"));
        }
        Ok(())
    }

    fn source(&self, field: &str) -> &Source {
        let index = TABLE.iter().position(|setting| setting.field == field);
        index.map_or(&Source::Default, |index| &self.sources[index])
    }
}

fn flag(raw: &Raw, setting: &Setting) -> Option<Given> {
    let texts = raw.flags.0.get(setting.field)?.clone();
    Some(Given { texts, source: Source::Flag(setting.name()) })
}

fn variable(raw: &Raw, setting: &Setting) -> Option<Given> {
    let (name, text) = raw.environment.get(setting.field)?;
    let texts =
        if setting.list { text.split(',').map(|part| part.trim().to_owned()).collect() } else { vec![text.clone()] };
    Some(Given { texts, source: Source::Variable(name.clone()) })
}

fn default(setting: &Setting) -> Given {
    let texts = if setting.default.is_empty() { Vec::new() } else { vec![setting.default.to_owned()] };
    Given { texts, source: Source::Default }
}

/// The value of the setting called `field`.
pub(super) fn value_of<T: Value>(given: &[(&'static Setting, Given)], field: &str) -> Result<T, String> {
    let (setting, given) = given
        .iter()
        .find(|(setting, _)| setting.field == field)
        .ok_or_else(|| format!("{field} is not in the table of settings"))?;
    T::read_all(&given.texts).ok_or_else(|| {
        let (name, allowed) = (setting.name(), T::allowed());
        if given.source == Source::Default {
            let variable = setting.variables().next().unwrap_or_default();
            return format!("{name} is not set; give --{name}, {variable}, or '{name}' in the file of --config");
        }
        format!("{name} is '{}' ({}); it has to be {allowed}", given.texts.join(", "), given.source)
    })
}
