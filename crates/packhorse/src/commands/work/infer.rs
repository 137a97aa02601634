//! What can be typed of other machines that run the models.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remote::policy::Limits;
use remote::{Address, Remote, Security, Settings, Tolerance};
use serve::Scheduler;
use work::Inference;

use crate::exit::Exit;
use crate::inference::{Attached, InProcess, Otherwise};

/// The longest that a frame waits for an endpoint to come back. A worker that is to end waits for its frames, so it is less
/// than what those are usually given who have to go.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is tried for a frame that nobody else answers.
const TRIES_MAX: u32 = 10;

#[derive(clap::Args)]
pub(super) struct InferArgs {
    /// Another machine that runs the models: grpc://HOST:PORT[/MODEL[:VERSION]] (Open Inference Protocol), tfs+grpc:// or
    /// tfs+http:// (TensorFlow Serving); with TLS grpcs://, tfs+grpcs:// or tfs+https://. May be given several times, or with
    /// commas
    #[arg(long, env = "PACKHORSE_INFER", value_name = "URL", value_delimiter = ',')]
    infer: Vec<Address>,
    /// Seconds that one call of it may take
    #[arg(long, env = "PACKHORSE_INFER_TIMEOUT", default_value_t = 2.0, value_name = "SECONDS", value_parser = timeout)]
    infer_timeout: f64,
    /// Frames that may be under way to and from it
    #[arg(long, env = "PACKHORSE_INFER_IN_FLIGHT", default_value_t = 8, value_name = "FRAMES", value_parser = clap::value_parser!(u16).range(1..=100))]
    infer_in_flight: u16,
    /// How far its answers may be from the model's own, as a share of an output's largest value; 0 is bit for bit
    #[arg(long, env = "PACKHORSE_INFER_TOLERANCE", default_value_t = 0.0, value_name = "SHARE", value_parser = tolerance)]
    infer_tolerance: f64,
    /// What becomes of a frame that none of them answers
    #[arg(long, env = "PACKHORSE_INFER_OTHERWISE", value_enum, default_value = "local")]
    infer_otherwise: Otherwise,
    /// The certificates of the authorities that are trusted with TLS, in PEM, and no others [default: those of this machine]
    #[arg(long, env = "PACKHORSE_INFER_CA", value_name = "FILE")]
    infer_ca: Option<PathBuf>,
    /// The certificate that this side shows, in PEM, with those between it and its authority
    #[arg(long, env = "PACKHORSE_INFER_CERT", value_name = "FILE", requires = "infer_key")]
    infer_cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, env = "PACKHORSE_INFER_KEY", value_name = "FILE", requires = "infer_cert")]
    infer_key: Option<PathBuf>,
    /// A token that is sent with every call, as 'authorization: Bearer'; read anew when it is replaced
    #[arg(long, env = "PACKHORSE_INFER_TOKEN_FILE", value_name = "FILE")]
    infer_token_file: Option<PathBuf>,
    /// Sends it where there is no TLS, too, and everybody on the way can read it
    #[arg(long, env = "PACKHORSE_INFER_TOKEN_IN_CLEAR", requires = "infer_token_file")]
    infer_token_in_clear: bool,
}

fn timeout(text: &str) -> Result<f64, String> {
    between(text, 0.001, 3600.0).ok_or_else(|| "give 0.001 to 3600 seconds".to_owned())
}

fn tolerance(text: &str) -> Result<f64, String> {
    between(text, 0.0, 1.0).ok_or_else(|| "give a share from 0 to 1, such as 0.001".to_owned())
}

fn between(text: &str, least: f64, most: f64) -> Option<f64> {
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

/// What runs the models.
pub(super) enum Runner {
    Here(Arc<InProcess>),
    Attached(Arc<Attached>),
}

impl Runner {
    pub(super) fn inference(&self) -> Arc<dyn Inference> {
        match self {
            Self::Here(here) => Arc::clone(here) as _,
            Self::Attached(attached) => Arc::clone(attached) as _,
        }
    }

    /// What was asked of other machines, if there are any.
    pub(super) fn used(&self) -> Option<work::cost::Remote> {
        match self {
            Self::Here(_) => None,
            Self::Attached(attached) => Some(attached.used()),
        }
    }
}

impl InferArgs {
    /// What was asked for. `model` is what tasks are for that name none; its endpoints are looked at now, or those of the
    /// store's only model.
    pub(super) fn runner(&self, scheduler: &Arc<Scheduler>, model: Option<&str>) -> Result<Runner, Exit> {
        let here = InProcess(Arc::clone(scheduler));
        if self.infer.is_empty() {
            return Ok(Runner::Here(Arc::new(here)));
        }
        let remote = Remote::start(&self.infer, self.settings()).map_err(|error| Exit::configuration(&error))?;
        let attached = Attached::new(here, remote, self.infer_otherwise);
        let models = scheduler.residency().models();
        let only = if let [only] = &models[..] { Some(only.manifest().name.as_str()) } else { None };
        if let Some(name) = model.or(only) {
            attached.check(name).map_err(|error| Exit::configuration(&error))?;
        }
        let attached = Arc::new(attached);
        scheduler.metrics().watch_others(Arc::clone(&attached) as _);
        Ok(Runner::Attached(attached))
    }

    fn settings(&self) -> Settings {
        let call = Duration::from_secs_f64(self.infer_timeout);
        let limits = match self.infer_otherwise {
            Otherwise::Local => Limits { call, question: call * 2, ..Limits::default() },
            Otherwise::Wait => {
                Limits { call, question: PATIENCE, waits: true, tries_max: TRIES_MAX, ..Limits::default() }
            }
        };
        let (in_flight, tolerance) = (usize::from(self.infer_in_flight), Tolerance(self.infer_tolerance));
        let security = self.security();
        Settings { in_flight, tolerance, limits, security, ..Settings::default() }
    }

    fn security(&self) -> Security {
        Security {
            authorities: self.infer_ca.clone(),
            identity: self.infer_cert.clone().zip(self.infer_key.clone()),
            token: self.infer_token_file.clone(),
            token_in_clear: self.infer_token_in_clear,
        }
    }
}
