//! The schema against what serde and `check` say: the same keys, defaults, words and limits.

use std::collections::BTreeSet;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::{generated, keep_in_step, kept, without_links};
use crate::config::Config;
use crate::error::ConfigError;
use crate::plan::Plan;

/// A key of the schema, and where it would stand in a file that has one of everything.
struct Key {
    /// From the top: table by table, an array's or a map's only element named as it is in [`minimal`].
    path: Vec<String>,
    schema: Value,
    is_required: bool,
}

impl Key {
    fn name(&self) -> String {
        self.path.join(".")
    }
}

/// Every key there is.
fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    collect(&generated(), &[], &mut keys);
    assert!(keys.len() > 70, "the schema was walked: {}", keys.len());
    keys
}

fn collect(schema: &Value, path: &[String], keys: &mut Vec<Key>) {
    let below = |name: &str| [path, &[name.to_owned()]].concat();
    for (name, key) in schema["properties"].as_object().into_iter().flatten() {
        let is_required = schema["required"].as_array().is_some_and(|keys| keys.contains(&json!(name)));
        keys.push(Key { path: below(name), schema: key.clone(), is_required });
        collect(key, &below(name), keys);
    }
    let elements = [schema.pointer("/items"), schema.pointer("/items/anyOf/1")];
    for element in elements.into_iter().flatten() {
        collect(element, &below("0"), keys);
    }
    if let Some(element) = schema.get("additionalProperties") {
        collect(element, &below("w"), keys);
    }
}

/// The least that a file with one of everything has in it, but for `rebalance`.
fn minimal() -> Value {
    json!({
        "listener": [{
            "listen": "127.0.0.1:8020",
            "upstream": "w",
            "route": [{ "upstream": "w" }],
        }],
        "upstream": { "w": { "servers": [{ "address": "127.0.0.1:8010" }] } },
    })
}

/// The table that a key stands in, made where there is none.
fn table<'a>(file: &'a mut Value, path: &[String]) -> &'a mut Map<String, Value> {
    let (_, tables) = path.split_last().expect("a key");
    let table = tables.iter().fold(file, |table, name| match table {
        Value::Array(elements) => &mut elements[name.parse::<usize>().unwrap()],
        table => table.as_object_mut().unwrap().entry(name).or_insert_with(|| json!({})),
    });
    table.as_object_mut().unwrap()
}

/// The minimal file with a key in it.
fn with(key: &Key, value: &Value) -> Value {
    let mut file = minimal();
    table(&mut file, &key.path).insert(key.path.last().unwrap().clone(), value.clone());
    file
}

/// JSON as TOML: strings, numbers and arrays are the same.
fn toml(file: &Value) -> String {
    pairs(file.as_object().expect("a file is a table"), "\n")
}

fn pairs(table: &Map<String, Value>, between: &str) -> String {
    let pairs = table.iter().map(|(name, value)| format!("{} = {}", json!(name), inline(value)));
    pairs.collect::<Vec<_>>().join(between)
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(table) => format!("{{ {} }}", pairs(table, ", ")),
        Value::Array(elements) => {
            format!("[{}]", elements.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Null => panic!("TOML has no null"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// Whatever the name, it resolves.
fn checked(file: &Value) -> Result<Plan, ConfigError> {
    Config::from_toml(&toml(file))?.check_with(&mut |_| Ok(vec![([192, 0, 2, 1], 80).into()]))
}

fn validator() -> Validator {
    jsonschema::draft7::new(&generated()).expect("a schema")
}

#[test]
fn the_kept_schema_is_made_of_the_types() {
    keep_in_step("docs/config.schema.json", &kept());
}

#[test]
fn it_is_a_schema() {
    let schema: Value = serde_json::from_str(&kept()).unwrap();
    if let Err(error) = jsonschema::draft7::meta::validate(&schema) {
        panic!("{error} at {}", error.instance_path());
    }
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    // Nothing to look up elsewhere.
    assert!(!kept().contains("$ref"));
}

/// What is no key that one has to write, so that an error lists all that are.
const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzz";

#[test]
fn each_key_that_serde_knows_is_there_and_described_and_no_other() {
    let (keys, schema) = (keys(), validator());
    let of_a_listener = ["listener", "0", "timeouts"].map(str::to_owned);
    let tables: BTreeSet<&[String]> = keys.iter().map(|key| key.path.split_last().unwrap().1).collect();
    for path in &tables {
        let known = keys.iter().filter(|key| key.path.split_last().unwrap().1 == *path);
        let mut known: BTreeSet<&str> = known.map(|key| key.path.last().unwrap().as_str()).collect();
        if **path == of_a_listener {
            assert!(known.insert("drain"), "serde knows it, `check` refuses it, and so does the schema");
        }
        let unknown = Key {
            path: [path, [UNKNOWN.to_owned()].as_slice()].concat(),
            schema: Value::Null,
            is_required: false,
        };
        let file = with(&unknown, &json!(1));
        let help = checked(&file).unwrap_err().help.unwrap();
        let help = help.strip_prefix("the keys here are ").expect("a list of keys");
        assert_eq!(help.split(", ").collect::<BTreeSet<_>>(), known, "{path:?}");
        assert!(!schema.is_valid(&file), "{path:?} lets keys in that there are not");
    }
    assert_eq!(tables.len(), 13, "{tables:?}");
    for key in &keys {
        let description = key.schema["description"].as_str().unwrap_or_default();
        assert!(!description.is_empty(), "{} has no description", key.name());
        assert!(!description.ends_with('.'), "{}: a description ends as one in a table does", key.name());
    }
}

#[test]
fn its_defaults_are_those_of_the_checks() {
    let mut defaults = minimal();
    // Which is no default but has some.
    let mut expected = minimal();
    table(&mut expected, &["upstream", "w", "rebalance"].map(str::to_owned))
        .insert("rebalance".to_owned(), json!({}));
    let mut written = 0;
    for key in keys() {
        if let Some(default) = key.schema.get("default") {
            let name = key.path.last().unwrap().clone();
            assert!(!key.is_required, "{}", key.name());
            assert!(table(&mut defaults, &key.path).insert(name, default.clone()).is_none());
            written += 1;
        }
    }
    assert!(written > 50, "{written}");
    assert_eq!(checked(&defaults).unwrap(), checked(&expected).unwrap());
    assert!(validator().is_valid(&defaults));
}

#[test]
fn required_is_what_the_checks_require() {
    let schema = validator();
    assert!(schema.is_valid(&minimal()));
    checked(&minimal()).unwrap();
    let mut required = Vec::new();
    for key in keys().iter().filter(|key| key.is_required) {
        let mut file = minimal();
        table(&mut file, &key.path).remove(key.path.last().unwrap()).expect("the minimal file has it");
        assert!(!schema.is_valid(&file) && checked(&file).is_err(), "{}", key.name());
        required.push(key.name());
    }
    let expected = [
        "listener",
        "listener.0.listen",
        "listener.0.route.0.upstream",
        "upstream.w.servers",
        "upstream.w.servers.0.address",
    ];
    assert_eq!(required, expected);
}

#[test]
fn choices_are_those_of_the_checks() {
    let mut choices = 0;
    for key in keys() {
        let Some(words) = key.schema["enum"].as_array() else { continue };
        let words: Vec<String> = words.iter().map(Value::to_string).collect();
        let help = checked(&with(&key, &json!(UNKNOWN))).unwrap_err().help.unwrap();
        assert_eq!(help, format!("the choices are {}", words.join(", ")), "{}", key.name());
        choices += 1;
    }
    assert_eq!(choices, 11);
}

/// Texts of every form, right ones and almost right ones, for each key to be tried with.
const TEXTS: &str = r#"
off||auto|websocket|w|x|"
10s|250ms|1h 30m|1h30m| 5 m |1 0s|1.5h|0.5s|1. 5 s|10 seconds|2wks|1M|1month|3 days|1µs|7usec|9 years
0s|0h 5m|00s|0.0s|10|-1s|1 d|10 bananas|1.s|1..5s|s
10%|0%|12.5%|100%|100.0%|007%|5.%|10 %|101%|.5%|-0%|1e1%|1_0%|%
127.0.0.1:8021|0.0.0.0:0|[::]:8021|[::1%1]:80|[::ffff:1.2.3.4]:80|127.0.0.1|a:0|:80|*:80
localhost:80|my_app.internal.:080|localhost|localhost:65536|http://a:80|a b:80|[::1]:0
unix:|unix:/run/adit.sock|unix:a b|fd:web|fd:a b|fd:|fd:a:b|fd:ü|unix
/|/chat|=/chat|/a%2Fb|/a b|/x?y|chat|=|/~x;y='z'
a.example.com|*.example.com|A.b.|[::1]|[::1|a_b|10.0.0.1|*|*.|a$b,c|a.example:80
https://Example.com|null|NULL|https://[::1]:8443|a+b://x|https://a/b|ws://a|example.com
10.0.0.0/8|192.0.2.7|2001:db8::/32|::ffff:1.2.3.4|10.0.0.1/8|10.0.0.0/33|10.0.0.0/
h2c|TLS|tls1|X-Client|a b|Host|x!#$%&'*+.^_`|~|a(b
client_ip|path|header:X-User|query:a b|cookie:c|header:|query:|cookie|client_ip:
adit|a:b|a/b|www-data|stderr|/var/log/adit.log|$host|$$x|$peer
"#;

/// Values of the schema's own for a key, and values that are wrong for most.
fn trials(schema: &Value) -> Vec<Value> {
    let of_type = match schema["type"].as_str() {
        Some("string") => {
            let texts = TEXTS.lines().flat_map(|line| line.split('|')).map(Value::from);
            let own = [&schema["enum"], &schema["examples"]].into_iter().filter_map(Value::as_array);
            texts.chain(own.flatten().cloned()).collect()
        }
        Some("integer") => {
            let bound =
                |name: &str| schema[name].as_i64().unwrap_or_else(|| panic!("{schema} has no {name}"));
            let (least, most) = (bound("minimum"), bound("maximum"));
            [least - 1, least, most, most + 1].map(Value::from).to_vec()
        }
        Some("boolean") => vec![json!(true), json!(false)],
        Some("array") => {
            let elements = trials(&schema["items"]).into_iter().map(|element| json!([element]));
            elements.chain([json!([])]).collect()
        }
        Some("object") => vec![json!({}), json!({ "X-Client": "$client_ip" }), json!({ "a b": "c" })],
        _ => schema["anyOf"].as_array().expect("a type").iter().flat_map(trials).collect(),
    };
    let wrong =
        [json!(7.5), json!(8), json!("zz zz"), json!(true), json!([]), json!([[8]]), json!({ "zz": 8 })];
    of_type.into_iter().chain(wrong).collect()
}

/// Whether the schema says all that there is to say about a value by itself.
fn is_exact(schema: &Value) -> bool {
    match (schema["type"].as_str(), schema["anyOf"].as_array()) {
        (Some("integer" | "boolean"), _) => true,
        (None, Some(schemas)) => schemas.iter().all(is_exact),
        (Some(_) | None, _) => schema.get("enum").is_some(),
    }
}

/// Nobody is told by an editor that a right file is wrong; and numbers, choices and flags, and which of them go
/// together, are judged alike.
#[test]
fn what_the_checks_let_in_the_schema_does() {
    let schema = validator();
    let (mut right, mut refused) = (0, 0);
    for key in keys() {
        // Their keys are tried one by one.
        let is_table =
            key.schema.get("properties").is_some() || key.schema["additionalProperties"].is_object();
        // A build without it refuses what is right with it.
        let is_left_out = key.path[0] == "admin" && !cfg!(feature = "admin");
        if is_table || is_left_out {
            continue;
        }
        for value in trials(&key.schema) {
            let file = with(&key, &value);
            let (checked, is_valid) = (checked(&file), schema.is_valid(&file));
            let name = key.name();
            match &checked {
                Ok(_) => assert!(is_valid, "{name} = {value} is right"),
                Err(error) if is_exact(&key.schema) => assert!(!is_valid, "{name} = {value}: {error}"),
                Err(_) => {}
            }
            right += usize::from(checked.is_ok());
            refused += usize::from(!is_valid);
        }
    }
    assert!(right > 500 && refused > 3000, "{right}, {refused}");
}

#[test]
fn examples_are_right() {
    let mut examples = 0;
    for key in keys() {
        // For these another key has to be set too.
        if key.name() == "upstream.w.hash_key" || (key.path[0] == "admin" && !cfg!(feature = "admin")) {
            continue;
        }
        for example in key.schema["examples"].as_array().into_iter().flatten() {
            checked(&with(&key, example)).unwrap_or_else(|error| panic!("{error}"));
            examples += 1;
        }
    }
    assert!(examples > 20, "{examples}");
}

#[test]
fn links_are_told_in_words() {
    assert_eq!(without_links("see [A](#a), [b c](#b-c) and [D](#d)"), {
        "see \"A\" in the README, \"b c\" in the README and \"D\" in the README"
    });
    assert_eq!(without_links("`[timeouts]` (see below)"), "`[timeouts]` (see below)");
    assert!(!kept().contains("](#"));
}
