//! What cargo knows about the workspace and its dependencies.

use serde_json::Value;

use crate::Result;
use crate::steps::output;

/// A package of the dependency graph.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: String,
    pub(crate) rust_version: Option<String>,
    /// Where it comes from; `None` for a member of the workspace.
    pub(crate) source: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) examples: Vec<String>,
    pub(crate) published: bool,
}

impl Package {
    /// Whether it belongs to the workspace and goes to crates.io.
    pub(crate) fn is_ours(&self) -> bool {
        self.source.is_none() && self.published
    }
}

/// Every package of the workspace's lock file.
pub(crate) fn packages() -> Result<Vec<Package>> {
    let text = output("cargo metadata --format-version 1 --all-features --locked")?;
    let metadata: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    Ok(packages.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let text = |field: &str| value[field].as_str().map(str::to_owned);
    let targets = value["targets"].as_array().into_iter().flatten();
    Package {
        name: text("name").unwrap_or_default(),
        version: text("version").unwrap_or_default(),
        licence: text("license").unwrap_or_default(),
        rust_version: text("rust_version"),
        source: text("source"),
        features: value["features"]
            .as_object()
            .into_iter()
            .flat_map(|all| all.keys().cloned())
            .collect(),
        examples: targets
            // One that asks for a feature is run by who wants it.
            .filter(|target| {
                target["kind"][0] == "example" && target["required-features"].is_null()
            })
            .filter_map(|target| target["name"].as_str().map(str::to_owned))
            .collect(),
        // `publish` is null, or the list of the registries that may have it.
        published: value["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
    }
}
