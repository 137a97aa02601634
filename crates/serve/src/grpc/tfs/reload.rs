//! The whole new list of models: the named are loaded, and what is not named goes.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Error, Result};
use proto::tensorflow::error::Code;
use proto::tensorflow::serving::file_system_storage_path_source_config::servable_version_policy::PolicyChoice;
use proto::tensorflow::serving::model_server_config::Config;
use proto::tensorflow::serving::{ModelServerConfig, ReloadConfigResponse, StatusProto};
use store::repository::VersionPolicy;

use crate::{LoadOptions, Residency};

/// Makes `residency` serve exactly the models of `config`: first it loads those that are missing or of which other versions
/// are wanted, then it unloads those that are not named, and at last it moves labels. Blocks until that is done; what was
/// done before an error stays done.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) when clients do not decide which models are served, or for what a
/// configuration cannot say here; [`NotFound`](engine::ErrorKind::NotFound) for a name that the store does not have;
/// [`FailedPrecondition`](engine::ErrorKind::FailedPrecondition) for a label that would go to a version that is not served.
pub(super) fn reload(residency: &Residency, config: Option<ModelServerConfig>) -> Result<ReloadConfigResponse> {
    let wanted = wanted(config)?;
    if residency.control() != crate::Control::Explicit {
        return Err(Error::unsupported(
            "the list of models is not for clients to change; start the server with --control explicit",
        ));
    }
    let known: BTreeSet<String> = residency.index().into_iter().map(|entry| entry.name).collect();
    if let Some(unknown) = wanted.keys().find(|name| !known.contains(*name)) {
        return Err(Error::not_found(format!("model '{unknown}' is not in the store; nothing was changed")));
    }
    for (name, model) in &wanted {
        // What is served already, and wanted, is left alone.
        residency
            .load_named(name, &LoadOptions { policy: model.policy.clone(), keep: true, ..LoadOptions::default() })?;
    }
    let served: BTreeSet<String> = residency.models().iter().map(|model| model.manifest().name.clone()).collect();
    for name in served.iter().filter(|name| !wanted.contains_key(*name)) {
        residency.unload_named(name)?;
    }
    for (name, model) in wanted {
        residency.label(&name, model.labels)?;
    }
    let status = StatusProto { error_code: Code::Ok.into(), error_message: String::new() };
    Ok(ReloadConfigResponse { status: Some(status) })
}

/// What a configuration says of one model.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Which versions; without one it is for the repository to say.
    policy: Option<VersionPolicy>,
    labels: BTreeMap<String, u64>,
}

/// The models of `config`. Where a model lies is the store's business, so its `base_path` is not looked at.
fn wanted(config: Option<ModelServerConfig>) -> Result<BTreeMap<String, Wanted>> {
    let list = match config.and_then(|config| config.config) {
        Some(Config::ModelConfigList(list)) => list.config,
        Some(Config::CustomModelConfig(_)) => {
            return Err(Error::unsupported("custom_model_config is not served; send a model_config_list"));
        }
        None => return Err(Error::invalid("the request has no config; send a model_config_list")),
    };
    let mut models = BTreeMap::new();
    for model in list {
        if model.name.is_empty() {
            return Err(Error::invalid("a model of the config has no name"));
        }
        let number = |version| {
            u64::try_from(version)
                .map_err(|_| Error::invalid(format!("version {version} of model '{}' is negative", model.name)))
        };
        let labels = model.version_labels.iter().map(|(label, &version)| Ok((label.clone(), number(version)?)));
        let policy = match model.model_version_policy.as_ref().and_then(|policy| policy.policy_choice.as_ref()) {
            None => None,
            Some(PolicyChoice::All(_)) => Some(VersionPolicy::All),
            Some(PolicyChoice::Latest(latest)) => Some(VersionPolicy::Latest(latest.num_versions)),
            Some(PolicyChoice::Specific(specific)) => {
                Some(VersionPolicy::Specific(specific.versions.iter().copied().map(number).collect::<Result<_>>()?))
            }
        };
        let labels = labels.collect::<Result<_>>()?;
        if models.insert(model.name.clone(), Wanted { policy, labels }).is_some() {
            return Err(Error::invalid(format!("the config names model '{}' twice", model.name)));
        }
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;
    use proto::tensorflow::serving::{ModelConfig, ModelConfigList};

    use super::*;

    fn config(models: &[(&str, Option<i64>)]) -> Option<ModelServerConfig> {
        let model = |&(name, label): &(&str, Option<i64>)| ModelConfig {
            name: name.to_owned(),
            version_labels: label.map(|version| ("stable".to_owned(), version)).into_iter().collect(),
            ..ModelConfig::default()
        };
        let list = ModelConfigList { config: models.iter().map(model).collect() };
        Some(ModelServerConfig { config: Some(Config::ModelConfigList(list)) })
    }

    #[test]
    fn a_config_is_a_list_of_models() {
        let custom = Some(ModelServerConfig { config: Some(Config::CustomModelConfig(prost_types::Any::default())) });
        for (config, want) in [
            (config(&[("b", None), ("a", Some(3))]), Ok(vec![("a", Some(3)), ("b", None)])),
            (config(&[]), Ok(vec![])),
            (config(&[("a", None), ("a", None)]), Err(ErrorKind::InvalidInput)),
            (config(&[("", None)]), Err(ErrorKind::InvalidInput)),
            (config(&[("a", Some(-1))]), Err(ErrorKind::InvalidInput)),
            (custom, Err(ErrorKind::Unsupported)),
            (None, Err(ErrorKind::InvalidInput)),
        ] {
            let got = wanted(config).map_err(|error| error.kind);
            let told = |(name, model): (String, Wanted)| (name, model.labels.get("stable").copied());
            let got = got.map(|models| models.into_iter().map(told).collect::<Vec<_>>());
            assert_eq!(
                got,
                want.map(|models| models.into_iter().map(|(name, label)| (name.to_owned(), label)).collect())
            );
        }
    }
}
