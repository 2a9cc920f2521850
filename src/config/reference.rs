//! The tables of the README's reference: a key, its default and its description in each row, as the schema has them.
//! Only tests are built with this.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Config;
use super::schema::{generated, is_wait_or_off, keep_in_step};

const README: &str = include_str!("../../README.md");

/// What stands around the tables there.
const BEGIN: &str =
    "<!-- Made of src/config/mod.rs; `ADIT_RENEW=1 cargo test --lib config` writes it anew. -->\n";
const END: &str = "<!-- Up to here. -->\n";

/// A table of the reference, which is for a table of the file.
struct Section {
    title: &'static str,
    /// What opens it in a file.
    header: &'static str,
    /// Where the schema has it.
    pointer: &'static str,
}

const SECTIONS: [Section; 12] = [
    Section { title: "at the top", header: "", pointer: "" },
    Section { title: "`[admin]`", header: "[admin]", pointer: "/properties/admin" },
    Section { title: "`[log]`", header: "[log]", pointer: "/properties/log" },
    Section {
        title: "`[timeouts]`, and `[listener.timeouts]` for one listener",
        header: "[timeouts]",
        pointer: "/properties/timeouts",
    },
    Section { title: "`[drain]`", header: "[drain]", pointer: "/properties/drain" },
    Section { title: "`[limits]`", header: "[limits]", pointer: "/properties/limits" },
    Section { title: "`[tcp]`", header: "[tcp]", pointer: "/properties/tcp" },
    Section { title: "`[[listener]]`", header: "[[listener]]", pointer: "/properties/listener/items" },
    Section {
        title: "`[[listener.route]]`",
        header: "[[listener]]\n[[listener.route]]",
        pointer: "/properties/listener/items/properties/route/items",
    },
    Section {
        title: "`[upstream.NAME]`",
        header: "[upstream.NAME]",
        pointer: "/properties/upstream/additionalProperties",
    },
    Section {
        title: "a table in `servers`",
        header: "[[upstream.NAME.servers]]",
        pointer: "/properties/upstream/additionalProperties/properties/servers/items/anyOf/1",
    },
    Section {
        title: "`[upstream.NAME.rebalance]`",
        header: "[upstream.NAME.rebalance]",
        pointer: "/properties/upstream/additionalProperties/properties/rebalance",
    },
];

/// All of them.
fn rendered() -> String {
    let schema = generated();
    let sections = SECTIONS.iter().map(|section| section.rendered(&schema));
    sections.collect::<Vec<_>>().join("\n")
}

impl Section {
    fn rendered(&self, schema: &Value) -> String {
        let table = schema.pointer(self.pointer).unwrap_or_else(|| panic!("no {}", self.pointer));
        let mut text = String::new();
        writeln!(text, "| {} | default |{}|\n|---|---|---|", self.title, cell(described(table))).unwrap();
        for name in self.keys() {
            let key = &table["properties"][&name];
            if !self.has_section(&name) {
                let is_required =
                    table["required"].as_array().is_some_and(|keys| keys.contains(&json!(name)));
                writeln!(text, "| `{name}` |{}|{}|", cell(&default(key, is_required)), cell(described(key)))
                    .unwrap();
            }
        }
        text
    }

    /// Its keys in the order in which the types have them, which is that of an error's list of them.
    fn keys(&self) -> Vec<String> {
        let unknown = "zzzzzzzzzzzzzzzzzzzz";
        let error = Config::from_toml(&format!("{}\n{unknown} = 1", self.header)).unwrap_err();
        let help = error.help.expect("help with an unknown key");
        let keys = help.strip_prefix("the keys here are ").expect("a list of keys");
        keys.split(", ").map(str::to_owned).collect()
    }

    /// Whether the key is a table, or several, of which there is a section.
    fn has_section(&self, key: &str) -> bool {
        let pointer = format!("{}/properties/{key}", self.pointer);
        let is_of_it = |section: &Section| {
            let below = section.pointer.strip_prefix(&pointer);
            matches!(below, Some("" | "/items" | "/additionalProperties"))
        };
        SECTIONS.iter().any(is_of_it)
    }
}

fn described(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// What stands between two bars.
fn cell(text: &str) -> String {
    match text {
        "" => " ".to_owned(),
        text => format!(" {} ", text.replace('|', "\\|")),
    }
}

/// As a file has it: what JSON and TOML write alike.
fn default(key: &Value, is_required: bool) -> String {
    match key.get("default") {
        Some(default) if is_wait_or_off(key) && default != "off" => format!("`{default}` *or off*"),
        Some(default) => format!("`{default}`"),
        None if is_required => "required".to_owned(),
        None => String::new(),
    }
}

#[test]
fn the_readmes_reference_is_made_of_the_types() {
    let (before, rest) = README.split_once(BEGIN).expect("the mark before the tables");
    let (_, after) = rest.split_once(END).expect("the mark behind the tables");
    keep_in_step("README.md", &format!("{before}{BEGIN}\n{}\n{END}{after}", rendered()));
}

/// Tables of the schema, by where they are.
fn tables(schema: &Value, pointer: &str, found: &mut Vec<String>) {
    if schema.get("properties").is_some() {
        found.push(pointer.to_owned());
    }
    for (name, key) in schema["properties"].as_object().into_iter().flatten() {
        tables(key, &format!("{pointer}/properties/{name}"), found);
    }
    for inner in ["/additionalProperties", "/items", "/items/anyOf/1"] {
        if let Some(element) = schema.pointer(inner) {
            tables(element, &format!("{pointer}{inner}"), found);
        }
    }
}

#[test]
fn every_table_has_its_section() {
    let mut found = Vec::new();
    tables(&generated(), "", &mut found);
    // It has the keys of the other, but for one.
    found.retain(|pointer| pointer != "/properties/listener/items/properties/timeouts");
    let mut sections = SECTIONS.map(|section| section.pointer.to_owned());
    sections.sort();
    found.sort();
    assert_eq!(found, sections);
}
