//! What a start was configured with, setting by setting, for the record.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;

/// Settings whose value may hold a password.
const SECRET: [&str; 2] = ["database_url", "otlp_endpoint"];

/// One setting that has a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its value.
    pub value: Value,
    /// Whether the value may hold a secret: then not even a digest without a key is shown.
    pub secret: bool,
}

impl Config {
    /// Each setting that has a value, by its name, such as `limits.request_timeout_ms`.
    /// Taken from the type itself, so that a new setting cannot be forgotten.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn settings(&self) -> Result<BTreeMap<String, Setting>, serde_json::Error> {
        let mut settings = BTreeMap::new();
        collect(&mut settings, "", serde_json::to_value(self)?);
        Ok(settings)
    }
}

fn collect(settings: &mut BTreeMap<String, Setting>, name: &str, value: Value) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = match name {
                    "" => key,
                    name => format!("{name}.{key}"),
                };
                collect(settings, &name, value);
            }
        }
        value => {
            let secret = SECRET.contains(&name);
            settings.insert(name.to_owned(), Setting { value, secret });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_its_name_and_what_may_hold_a_password_is_marked() {
        let config = Config {
            database_url: Some("postgres://zta:canary@db/zta".to_owned()),
            ..Config::default()
        };
        let settings = config.settings().expect("settings");
        let value = |name: &str| settings[name].value.clone();
        assert_eq!(value("limits.request_timeout_ms"), 30_000);
        assert_eq!(value("policy.require_signed"), false);
        assert_eq!(value("listen"), "127.0.0.1:7443");
        assert!(!settings.contains_key("keyring_file"), "it has no value");
        for (name, setting) in settings {
            let holds = setting.value.to_string().contains("canary");
            assert_eq!(setting.secret, holds, "{name}");
        }
    }
}
