//! `shoal sample-agent NAME`: stdio agents inside the binary, for a first mesh and for trying things out on
//! a machine that has nothing else.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The arguments of `shoal sample-agent`.
#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// Which one.
    agent: Sample,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Sample {
    /// Answers with the numbers of lines, words and characters of what it gets.
    Wordcount,
}

/// Runs the sample until its stdin ends.
#[must_use]
pub fn run(args: &SampleArgs) -> ExitCode {
    let answer = match args.agent {
        Sample::Wordcount => wordcount,
    };
    match converse(io::stdin().lock(), io::stdout().lock(), answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "the sample agent lost its node: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a sample reads of a line: the fields that it needs.
#[derive(Deserialize)]
struct Incoming {
    r#type: String,
    #[serde(default)]
    id: String,
    content: Option<String>,
    #[serde(default)]
    wants_answer: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Outgoing<'a> {
    Ready,
    Reply { to: &'a str, content_type: &'static str, content: String },
    Failure { to: &'a str, reason: &'a str },
}

fn converse(node: impl BufRead, mut out: impl Write, answer: fn(&str) -> String) -> io::Result<()> {
    let mut say = |line: &Outgoing<'_>| -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        out.write_all(&bytes)?;
        out.flush()
    };
    say(&Outgoing::Ready)?;
    for line in node.lines() {
        let incoming: Incoming = serde_json::from_str(&line?)?;
        if incoming.r#type != "message" || !incoming.wants_answer {
            continue;
        }
        let to = &incoming.id;
        match incoming.content {
            Some(content) => {
                say(&Outgoing::Reply { to, content_type: "application/json", content: answer(&content) })?;
            }
            None => say(&Outgoing::Failure { to, reason: "the content is not text" })?,
        }
    }
    Ok(())
}

fn wordcount(text: &str) -> String {
    let (lines, words, characters) =
        (text.lines().count(), text.split_whitespace().count(), text.chars().count());
    format!(r#"{{"lines":{lines},"words":{words},"characters":{characters}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(input: &str) -> Vec<serde_json::Value> {
        let mut out = Vec::new();
        converse(input.as_bytes(), &mut out, wordcount).expect("memory does not fail");
        String::from_utf8(out)
            .expect("text")
            .lines()
            .map(|l| serde_json::from_str(l).expect("JSON"))
            .collect()
    }

    #[test]
    fn it_counts_lines_words_and_characters_of_text_and_refuses_the_rest() {
        let said = said(concat!(
            r#"{"type":"hello","protocol":1,"agent":"a","node":"n"}"#,
            "\n",
            r#"{"type":"message","id":"1","content":"zwei Wörter\nund mehr","wants_answer":true}"#,
            "\n",
            r#"{"type":"message","id":"2","content_base64":"/w==","wants_answer":true}"#,
            "\n",
            r#"{"type":"message","id":"3","content":"x","wants_answer":false}"#,
            "\n",
        ));
        assert_eq!(said.len(), 3);
        assert_eq!(said[0]["type"], "ready");
        assert_eq!(said[1]["content"], r#"{"lines":2,"words":4,"characters":20}"#);
        assert_eq!((&said[2]["type"], &said[2]["to"]), (&"failure".into(), &"2".into()));
    }
}
