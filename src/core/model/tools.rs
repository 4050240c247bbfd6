//! Tools: what an agent can be asked to do, said so that a program can ask for it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::core::ids::Tag;
use crate::core::limits;

/// One thing that an agent can be asked to do. It says so, and nobody checks that it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name, of which an agent has each once.
    pub name: Tag,
    /// What it does, for whoever chooses among tools.
    pub description: String,
    /// What it takes: the text of a JSON object that is a JSON Schema. Whoever takes it in has parsed it; the core does not.
    pub schema: String,
}

impl Tool {
    /// Checks the bounds of an agent's tools.
    ///
    /// # Errors
    /// A sentence for the person who deploys it.
    pub fn check_all(tools: &[Self]) -> Result<(), String> {
        if tools.len() > limits::TOOLS_MAX {
            let (count, max) = (tools.len(), limits::TOOLS_MAX);
            return Err(format!("the agent has {count} tools: at most {max} are allowed"));
        }
        let mut names = BTreeSet::new();
        for Self { name, description, schema } in tools {
            if !names.insert(name) {
                return Err(format!("the tool {name} is given twice"));
            }
            for (what, text, max) in [
                ("description", description, limits::TOOL_DESCRIPTION_BYTES_MAX),
                ("schema", schema, limits::TOOL_SCHEMA_BYTES_MAX),
            ] {
                if text.len() > max {
                    let bytes = text.len();
                    return Err(format!(
                        "the {what} of the tool {name} has {bytes} bytes, allowed are {max}"
                    ));
                }
            }
            if description.chars().any(|c| c.is_control() && c != '\n') {
                return Err(format!("the description of the tool {name} has control characters"));
            }
        }
        let bytes: usize = tools.iter().map(|tool| tool.description.len() + tool.schema.len()).sum();
        if bytes > limits::TOOLS_BYTES_MAX {
            let max = limits::TOOLS_BYTES_MAX;
            return Err(format!("the agent's tools have {bytes} bytes together, allowed are {max}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, schema: &str) -> Tool {
        let name = Tag::new(name).expect("valid");
        Tool { name, description: "It does.".to_owned(), schema: schema.to_owned() }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_the_name_of_the_tool() {
        Tool::check_all(&[tool("a", "{}"), tool("b", "{}")]).expect("two");
        let large = "x".repeat(limits::TOOL_SCHEMA_BYTES_MAX);
        let cases = [
            (vec![tool("a", "{}"), tool("a", "{}")], "the tool a is given twice"),
            (
                vec![tool("a", &format!("{large}x"))],
                "the schema of the tool a has 8193 bytes, allowed are 8192",
            ),
            (
                vec![Tool { description: "x".repeat(1025), ..tool("a", "{}") }],
                "description of the tool a has 1025",
            ),
            (vec![Tool { description: "a\u{1b}b".to_owned(), ..tool("a", "{}") }], "control characters"),
            ((0..33).map(|n| tool(&format!("t{n}"), "{}")).collect(), "33 tools: at most 32"),
            ((0..5).map(|n| tool(&format!("t{n}"), &large)).collect(), "bytes together, allowed are 32768"),
        ];
        for (tools, words) in cases {
            let why = Tool::check_all(&tools).expect_err(words);
            assert!(why.contains(words), "{why}");
        }
    }
}
