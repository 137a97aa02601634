//! The settings as flags of the command line. Only what was typed is taken down; what it means is decided for every
//! source alike.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::settings::TABLE;

/// What was typed, by the setting's field.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags(pub(super) BTreeMap<&'static str, Vec<String>>);

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let texts = |field| matches.get_many::<String>(field).map(|texts| texts.cloned().collect());
        Ok(Self(TABLE.iter().filter_map(|setting| Some((setting.field, texts(setting.field)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        TABLE.iter().fold(command, |command, setting| {
            let help = match setting.default {
                "" => setting.doc().to_owned(),
                default => format!("{} [default: {default}]", setting.doc()),
            };
            let action = if setting.list { ArgAction::Append } else { ArgAction::Set };
            let flag = Arg::new(setting.field).long(setting.name()).help(help).action(action).value_name("VALUE");
            command.arg(flag.visible_aliases(setting.alias))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
