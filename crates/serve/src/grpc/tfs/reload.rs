//! The whole new list of models: the named are loaded, and what is not named goes.

use std::collections::BTreeSet;

use engine::{Error, Result};
use proto::tensorflow::error::Code;
use proto::tensorflow::serving::model_server_config::Config;
use proto::tensorflow::serving::{ModelServerConfig, ReloadConfigResponse, StatusProto};

use crate::Residency;

/// Makes `residency` serve exactly the models of `config`: first it loads those that are missing, then it unloads those
/// that are not named. Blocks until that is done; what was done before an error stays done.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) when clients do not decide which models are served, or for what a
/// configuration cannot say here; [`NotFound`](engine::ErrorKind::NotFound) for a name that the store does not have.
pub(super) fn reload(residency: &Residency, config: Option<ModelServerConfig>) -> Result<ReloadConfigResponse> {
    let wanted = names(config)?;
    let served: BTreeSet<String> = residency.models().iter().map(|model| model.manifest().name.clone()).collect();
    let plan = Plan::new(&wanted, &served);
    if residency.control() != crate::Control::Explicit {
        return Err(Error::unsupported(
            "the list of models is not for clients to change; start the server with --control explicit",
        ));
    }
    let known: BTreeSet<String> = residency.index().into_iter().map(|entry| entry.name).collect();
    if let Some(unknown) = plan.load.iter().find(|name| !known.contains(*name)) {
        return Err(Error::not_found(format!("model '{unknown}' is not in the store; nothing was changed")));
    }
    plan.load.iter().try_for_each(|name| residency.load_named(name))?;
    plan.unload.iter().try_for_each(|name| residency.unload_named(name))?;
    let status = StatusProto { error_code: Code::Ok.into(), error_message: String::new() };
    Ok(ReloadConfigResponse { status: Some(status) })
}

/// What separates one list of models from another.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    load: Vec<String>,
    unload: Vec<String>,
}

impl Plan {
    fn new(wanted: &BTreeSet<String>, served: &BTreeSet<String>) -> Self {
        let less = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect();
        Self { load: less(wanted, served), unload: less(served, wanted) }
    }
}

/// The names in `config`. Where a model lies is the store's business, so its `base_path` is not looked at.
fn names(config: Option<ModelServerConfig>) -> Result<BTreeSet<String>> {
    let list = match config.and_then(|config| config.config) {
        Some(Config::ModelConfigList(list)) => list.config,
        Some(Config::CustomModelConfig(_)) => {
            return Err(Error::unsupported("custom_model_config is not served; send a model_config_list"));
        }
        None => return Err(Error::invalid("the request has no config; send a model_config_list")),
    };
    let mut names = BTreeSet::new();
    for model in list {
        if !model.version_labels.is_empty() {
            let name = model.name;
            return Err(Error::unsupported(format!("model '{name}' has version_labels, and labels are not served")));
        }
        if model.name.is_empty() {
            return Err(Error::invalid("a model of the config has no name"));
        }
        if let Some(twice) = names.replace(model.name) {
            return Err(Error::invalid(format!("the config names model '{twice}' twice")));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;
    use proto::tensorflow::serving::{ModelConfig, ModelConfigList};

    use super::*;

    fn config(models: &[(&str, bool)]) -> Option<ModelServerConfig> {
        let model = |&(name, labelled): &(&str, bool)| ModelConfig {
            name: name.to_owned(),
            version_labels: labelled.then(|| ("stable".to_owned(), 1)).into_iter().collect(),
            ..ModelConfig::default()
        };
        let list = ModelConfigList { config: models.iter().map(model).collect() };
        Some(ModelServerConfig { config: Some(Config::ModelConfigList(list)) })
    }

    #[test]
    fn a_config_is_a_list_of_names() {
        let custom = Some(ModelServerConfig { config: Some(Config::CustomModelConfig(prost_types::Any::default())) });
        for (config, want) in [
            (config(&[("b", false), ("a", false)]), Ok(vec!["a", "b"])),
            (config(&[]), Ok(vec![])),
            (config(&[("a", false), ("a", false)]), Err(ErrorKind::InvalidInput)),
            (config(&[("", false)]), Err(ErrorKind::InvalidInput)),
            (config(&[("a", true)]), Err(ErrorKind::Unsupported)),
            (custom, Err(ErrorKind::Unsupported)),
            (None, Err(ErrorKind::InvalidInput)),
        ] {
            let want = want.map(|names| names.into_iter().map(str::to_owned).collect());
            assert_eq!(names(config).map_err(|error| error.kind), want);
        }
    }

    #[test]
    fn the_plan_is_the_difference() {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let plan = Plan::new(&set(&["a", "b"]), &set(&["b", "c"]));
        assert_eq!(plan, Plan { load: vec!["a".to_owned()], unload: vec!["c".to_owned()] });
    }
}
