//! The key `tools` of a manifest, and what a schema has to be wherever it comes from.

use serde_json::{Map, Number, Value as Json};

use super::care::{entries, within};
use super::manifest::{items, parsed, text};
use super::yaml::{Node, Value};
use crate::core::limits;
use crate::core::model::Tool;

const KEYS: [&str; 3] = ["name", "description", "schema"];

/// The tools of an agent.
pub(super) fn tools(node: &Node) -> Result<Vec<Tool>, String> {
    items(node)?.iter().enumerate().map(|(index, item)| within(&format!("[{index}]"), tool(item))).collect()
}

fn tool(node: &Node) -> Result<Tool, String> {
    let entries = entries(node, &KEYS)?;
    let needed = |key: &str| entries.get(key).ok_or_else(|| format!("{key} is missing"));
    let description = entries.get("description").map(|node| within("description", text(node)));
    let schema = match entries.get("schema") {
        Some(node) => within("schema", schema_text(&json_of(node)))?,
        None => "{}".to_owned(),
    };
    Ok(Tool {
        name: within("name", parsed(needed("name")?))?,
        description: description.transpose()?.unwrap_or_default().to_owned(),
        schema,
    })
}

/// The text of a schema, as an agent's specification has it.
///
/// # Errors
/// Why it can be none.
pub fn schema_text(schema: &Json) -> Result<String, String> {
    if !schema.is_object() {
        return Err("a JSON Schema is an object, as in {type: object}".to_owned());
    }
    let max = limits::TOOL_SCHEMA_DEPTH_MAX;
    if depth_of(schema) > max {
        return Err(format!("it is more than {max} deep"));
    }
    Ok(schema.to_string())
}

/// What is parsed has a bound of its own, so that this ends.
fn depth_of(value: &Json) -> usize {
    match value {
        Json::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or_default(),
        Json::Object(entries) => 1 + entries.values().map(depth_of).max().unwrap_or_default(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    }
}

/// YAML as JSON, by the core schema of YAML 1.2: what is not quoted may be a number, true or false.
fn json_of(node: &Node) -> Json {
    match &node.value {
        Value::Null | Value::Bad => Json::Null,
        Value::Text { text, plain: false } => Json::String(text.clone()),
        Value::Text { text, plain: true } => plain(text),
        Value::List(items) => items.iter().map(json_of).collect(),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, child)| (key.clone(), json_of(child)));
            Json::Object(entries.collect::<Map<_, _>>())
        }
    }
}

fn plain(text: &str) -> Json {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    match text {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ if !is_number => Json::String(text.to_owned()),
        _ => match (text.parse::<i64>(), text.parse::<f64>().ok().and_then(Number::from_f64)) {
            (Ok(whole), _) => Json::from(whole),
            (Err(_), Some(number)) => Json::Number(number),
            (Err(_), None) => Json::String(text.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::node::config::Manifest;

    fn tools_of(text: &str) -> Result<Vec<Tool>, String> {
        let text = format!("name: a\nsource: /bin/a\ntools: {text}\n");
        let manifest = Manifest::parse(&text, &Arc::from("agent.yaml"), Path::new("/"));
        manifest.map(|manifest| manifest.tools).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_schema_is_the_json_that_its_yaml_is() {
        let text = "
  - name: resize
    description: Makes an image smaller.
    schema:
      type: object
      properties: {width: {type: integer, minimum: 1, default: 0.5}, note: {type: [string, \"null\"], pattern: '12'}}
      additionalProperties: false
      required: [width]
  - {name: forget}";
        let tools = tools_of(text).expect("good");
        assert_eq!(
            tools.iter().map(|tool| (tool.name.as_str(), tool.description.as_str())).collect::<Vec<_>>(),
            [("resize", "Makes an image smaller."), ("forget", "")]
        );
        let schema: Json = serde_json::from_str(&tools[0].schema).expect("JSON");
        let wanted = json!({
            "type": "object",
            "properties": {
                "width": {"type": "integer", "minimum": 1, "default": 0.5},
                "note": {"type": ["string", "null"], "pattern": "12"},
            },
            "additionalProperties": false,
            "required": ["width"],
        });
        assert_eq!(schema, wanted);
        assert_eq!(tools[1].schema, "{}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let deep = format!("[{{name: a, schema: {}1{}}}]", "{a: ".repeat(12), "}".repeat(12));
        for (text, why) in [
            ("resize", "3: tools: a list is wanted here"),
            ("[{description: x}]", "3: tools: [0]: name is missing"),
            ("[{name: a b}]", "3: tools: [0]: name: "),
            ("[{name: a}, {name: b, schema: [x]}]", "[1]: schema: a JSON Schema is an object"),
            ("[{name: a, schema: true}]", "[0]: schema: a JSON Schema is an object"),
            ("[{name: a, shema: {}}]", "did you mean schema?"),
            ("[{name: a}, {name: a}]", "3: tools: the tool a is given twice"),
            (&deep, "schema: it is more than 10 deep"),
        ] {
            let told = tools_of(text).expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
