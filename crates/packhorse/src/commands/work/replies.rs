//! Whom a worker tells that a video has ended.

use std::sync::Arc;

use work::queue::SqsOutbox;
use work::reply::ReplyForm;
use work::{Outbox, Replies};

use crate::exit::Exit;
use crate::places::{self, Outside};

#[derive(clap::Args)]
pub(super) struct ReplyArgs {
    /// The queue in SQS that is told when a video has ended, unless its task names another
    #[arg(long, env = "PACKHORSE_REPLY_TO", value_name = "QUEUE")]
    reply_to: Option<String>,
    /// Queues that a task may name instead
    #[arg(long, env = "PACKHORSE_REPLY_ALLOW", value_name = "QUEUES", value_delimiter = ',')]
    reply_allow: Vec<String>,
    /// What is told of a video that is done: counts and where its results are, or the older worker's lines of labels and scores
    #[arg(long, env = "PACKHORSE_REPLY_FORM", value_enum, default_value = "json", value_name = "FORM")]
    reply_form: FormChoice,
}

/// A [`ReplyForm`], as it is typed.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(in crate::commands) enum FormChoice {
    Json,
    Text,
}

impl From<FormChoice> for ReplyForm {
    fn from(choice: FormChoice) -> Self {
        match choice {
            FormChoice::Json => Self::Json,
            FormChoice::Text => Self::Text,
        }
    }
}

impl ReplyArgs {
    /// The queues, each looked at once; `tasks` is where tasks come from.
    pub(super) fn replies(&self, outside: &Outside, tasks: &str) -> Result<Replies, Exit> {
        let open = |address: &String| -> Result<(String, Arc<dyn Outbox>), Exit> {
            let refused = |why: &str| Exit::Configuration(format!("replies to {address}: {why}"));
            if address == tasks {
                return Err(refused("this is the queue of tasks; give another one"));
            }
            if places::file(address).is_some() {
                return Err(refused(
                    "they go into queues of SQS only; give https://sqs.REGION.amazonaws.com/ACCOUNT/NAME or sqs://NAME",
                ));
            }
            let outbox = SqsOutbox::open(outside.network()?, address);
            Ok((address.clone(), Arc::new(outbox.map_err(|error| Exit::configuration(&error))?)))
        };
        let usual = self.reply_to.as_ref().map(open).transpose()?;
        let others = self.reply_allow.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Replies::new(usual, others, self.reply_form.into()))
    }
}
