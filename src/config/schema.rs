//! The JSON Schema of a configuration file, made of the types that serde reads it into, and kept in
//! docs/config.schema.json, from where `adit --schema` has it. Only tests are built with this.
//!
//! Keys, types and descriptions come from the types by `schemars`; here are the words for what `values` and `check`
//! judge later: the forms of texts, and which keys need or exclude which others. A schema cannot say all that they
//! do, so it is only ever too generous: what is right by it may still be wrong, and what it refuses always is.

use std::borrow::Cow;
use std::path::Path as FilePath;
use std::{env, fs};

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{Fields, File};

mod tests;

impl<T: JsonSchema> JsonSchema for Fields<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Names for forms of text: what a value has to look like, and some that do.
macro_rules! forms {
    ($($name:ident: $form:tt;)*) => {$(
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!($form);
                schema.insert("type".into(), "string".into());
                schema
            }
        }
    )*};
}

forms! {
    Account: { "pattern": "^[^:/]*$", "examples": ["adit"] };
    AccessTarget: { "minLength": 1, "examples": ["off", "stderr", "stdout", "/var/log/adit.log"] };
    Auto: { "enum": ["auto"] };
    FieldName: { "pattern": format!("^{TOKEN}$"), "examples": ["X-Client"] };
    HashKey: {
        "pattern": format!("^(client_ip|path|(header|query|cookie):{ANY}+)?$"),
        "examples": ["client_ip", "path", "header:X-User", "query:user", "cookie:session"],
    };
    Host: {
        "pattern": r"^((\*\.)?[0-9A-Za-z._~!$&'()+,;=-]+|\[[0-9A-Fa-f:.]+\])$",
        "examples": ["chat.example.com", "*.example.com"],
    };
    Listen: {
        "pattern": format!("^({LISTEN})$"),
        "examples": ["0.0.0.0:8020", "[::]:8020", "unix:/run/adit.sock", "fd:web"],
    };
    ListenOrOff: {
        "pattern": format!("^(off|{LISTEN})$"),
        "examples": ["off", "unix:/run/adit/admin.sock", "127.0.0.1:8021"],
    };
    Network: { "pattern": format!("^{NETWORK}$"), "examples": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"] };
    NetworkOrUnix: { "pattern": format!("^(unix:|{NETWORK})$"), "examples": ["10.0.0.0/8", "192.0.2.7", "unix:"] };
    OnRemoved: { "enum": ["keep", "drain", "close"] };
    Origin: {
        "pattern": "^([Nn][Uu][Ll][Ll]|[A-Za-z][0-9A-Za-z+.-]*://[^/]+)$",
        "examples": ["https://example.com"],
    };
    Path: { "pattern": r"^=?/[^?#\s]*$", "examples": ["/chat", "=/exact"] };
    Percentage: {
        "pattern": r"^(0*[0-9]{1,2}(\.[0-9]*)?|0*100(\.0*)?)\s*%$",
        "examples": ["10%"],
    };
    Protocol: {
        "pattern": format!("^{TOKEN}$"),
        "not": { "pattern": "^([Hh]2[Cc]|[Tt][Ll][Ss])$" },
        "examples": ["websocket"],
    };
    Target: {
        "pattern": format!(r"^(unix:{ANY}+|[^/\s]+:0*[1-9][0-9]*)$"),
        "examples": ["127.0.0.1:8010", "[::1]:8010", "unix:/run/app.sock"],
    };
    Wait: {
        "pattern": format!("^{DURATION}$"),
        "not": { "pattern": NOTHING },
        "examples": ["10s"],
    };
    WaitOrOff: {
        "pattern": wait_or_off(),
        "not": { "pattern": NOTHING },
        "examples": ["off", "10s"],
    };
}

// Regular expressions in what all dialects have in common: no looking ahead, no classes by name.

/// Any character, an end of a line too.
const ANY: &str = r"[\s\S]";

/// As humantime reads it.
const DURATION: &str = concat!(
    r"\s*([0-9][0-9\s]*(\.[0-9\s]+)?(ns|nsec|nanos|us|usec|µs|ms|msec|millis|s|secs?|seconds?|m|mins?|minutes?|",
    r"h|hrs?|hours?|d|days?|w|wks?|weeks?|M|months?|y|yrs?|years?)\s*)+",
);

fn wait_or_off() -> String {
    format!("^(off|{DURATION})$")
}

/// Whether a key takes a duration or the word "off".
pub(super) fn is_wait_or_off(key: &Value) -> bool {
    key["pattern"] == wait_or_off()
}

/// A duration of none.
const NOTHING: &str = r"^\s*0[^1-9]*$";

/// An address, or the name of a socket that is there already.
const LISTEN: &str = r"unix:[\s\S]+|fd:[ -9;-~]{1,255}|[0-9]+(\.[0-9]+){3}:[0-9]+|\[[0-9A-Fa-f:.%]+\]:[0-9]+";

const NETWORK: &str = "[0-9A-Fa-f:.]+(/[0-9]+)?";

/// RFC 9110, 5.6.2.
const TOKEN: &str = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";

/// A condition of the keys of one table.
fn add(schema: &mut Schema, conditions: Value) {
    let Value::Object(conditions) = conditions else { panic!("no keywords: {conditions}") };
    for (keyword, value) in conditions {
        assert!(schema.insert(keyword.clone(), value).is_none(), "{keyword} is there already");
    }
}

/// Without a listener there is nothing to say about it, and others are let reach it only with a token.
pub(super) fn admin(schema: &mut Schema) {
    let has_listener =
        json!({ "properties": { "listen": { "not": { "const": "off" } } }, "required": ["listen"] });
    let is_remote =
        json!({ "properties": { "allow_remote": { "const": true } }, "required": ["allow_remote"] });
    add(
        schema,
        json!({
            "if": has_listener,
            "then": {
                "if": is_remote,
                "then": { "properties": { "token_file": { "minLength": 1 } }, "required": ["token_file"] },
            },
            "else": { "properties": { "token_file": { "maxLength": 0 }, "allow_remote": { "const": false } } },
        }),
    );
}

/// A tcp listener has an upstream and nothing that is about requests; another has an upstream or routes.
pub(super) fn listener(schema: &mut Schema) {
    add(
        schema,
        json!({
            "if": { "properties": { "protocol": { "const": "tcp" } }, "required": ["protocol"] },
            "then": {
                "properties": { "route": { "maxItems": 0 }, "trusted_proxies": false },
                "required": ["upstream"],
            },
            "else": {
                "anyOf": [
                    { "required": ["upstream"] },
                    { "properties": { "route": { "minItems": 1 } }, "required": ["route"] },
                ],
            },
        }),
    );
}

/// What is not written is as it is for all listeners, and the process is drained as a whole.
pub(super) fn timeouts_of_a_listener(schema: &mut Schema) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut).expect("keys");
    assert!(properties.remove("drain").is_some());
    for key in properties.values_mut().filter_map(Value::as_object_mut) {
        assert!(key.remove("default").is_some());
    }
}

/// A hash has a key, nothing else has one, and where clients go by a hash they cannot be moved.
pub(super) fn upstream(schema: &mut Schema) {
    let goes_by = |methods: &[&str]| {
        let balance = json!({ "enum": methods });
        json!({ "properties": { "balance": balance }, "required": ["balance"] })
    };
    let of_hash = json!({ "properties": { "hash_key": { "minLength": 1 } }, "required": ["hash_key"] });
    add(
        schema,
        json!({
            "allOf": [
                {
                    "if": goes_by(&["hash"]),
                    "then": of_hash,
                    "else": { "properties": { "hash_key": { "maxLength": 0 } } },
                },
                { "if": goes_by(&["hash", "ip_hash"]), "then": { "properties": { "rebalance": false } } },
            ],
        }),
    );
}

/// One is no backup: a text, or a table that does not say so.
pub(super) fn servers(schema: &mut Schema) {
    add(schema, json!({ "contains": { "properties": { "backup": { "const": false } } } }));
}

/// The schema. Its descriptions may have links to the README's sections.
pub(super) fn generated() -> Value {
    let tidied = RecursiveTransform(|schema: &mut Schema| {
        // What is not written is nothing to serde, and has its default from `check`.
        if schema.get("default") == Some(&Value::Null) {
            schema.remove("default");
        }
        // TOML has one type of integers.
        schema.remove("format");
        if let Some(Value::String(description)) = schema.get_mut("description") {
            *description = description.replace('\n', " ");
        }
    });
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.with_transform(tidied).into_generator().into_root_schema_for::<File>().to_value()
}

/// The schema as it is kept: for readers who do not have the README beside it.
fn kept() -> String {
    let mut schema = Schema::try_from(generated()).expect("a schema");
    RecursiveTransform(|schema: &mut Schema| {
        if let Some(Value::String(description)) = schema.get_mut("description") {
            *description = without_links(description);
        }
    })
    .transform(&mut schema);
    serde_json::to_string_pretty(&schema).expect("JSON") + "\n"
}

/// `[Workers](#workers)` as `"Workers" in the README`.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("](#") {
        let (before, name) = before.rsplit_once('[').expect("a link's name in brackets");
        let (_, after) = link.split_once(')').expect("a link's end");
        plain += &format!("{before}\"{name}\" in the README");
        rest = after;
    }
    plain + rest
}

/// A file of the repository's that is made of the types has to be what is made of them now. With `ADIT_RENEW` it is
/// written anew.
pub(super) fn keep_in_step(path: &str, made: &str) {
    let file = FilePath::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    if found == made {
        return;
    }
    if env::var_os("ADIT_RENEW").is_some() {
        fs::write(&file, made).unwrap();
        return;
    }
    let at = found.lines().zip(made.lines()).take_while(|(found, made)| found == made).count();
    panic!(
        "{path} is not what is made of src/config/mod.rs, from line {} on: `ADIT_RENEW=1 cargo test --lib config` \
         writes it anew\n  found: {}\n  made:  {}",
        at + 1,
        found.lines().nth(at).unwrap_or("the end"),
        made.lines().nth(at).unwrap_or("the end"),
    );
}
