//! `shoal state watch`: keys as they change, one a line.

use clap::Args;

use super::value;
use crate::api::types::{Gap, NumberedChange};
use crate::cli::client::{Connection, quoted};
use crate::cli::{Failure, Output, Shown, client_of, print};

/// Arguments of `shoal state watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Begin after the change with this number instead of with the next one
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Follows the changes until the node goes away.
pub(super) async fn run(args: &WatchArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let after = args.after.map(|after| format!("&after={after}")).unwrap_or_default();
    let mut events =
        client.events(&format!("/v1/state-changes?prefix={}{after}", quoted(&args.prefix))).await?;
    loop {
        let sent = events.next().await?;
        let line = match args.shown.output {
            Output::Json => sent.data,
            Output::Table => line(&sent.name, &sent.data)?,
        };
        print::write_out(format!("{line}\n").as_bytes())?;
    }
}

fn line(name: &str, data: &str) -> Result<String, Failure> {
    let bad = |error| {
        Failure::Refused(format!("the node sent a change that this version does not understand: {error}"))
    };
    if name == "gap" {
        let Gap { after } = serde_json::from_str(data).map_err(bad)?;
        let after = print::or_nothing(after, |after| after.to_string());
        return Ok(format!("changes after number {after} are no longer kept; it goes on with younger ones"));
    }
    let change: NumberedChange = serde_json::from_str(data).map_err(bad)?;
    let what = match (&change.value, change.siblings) {
        (Some(text), 0 | 1) => value::preview(text, change.encoding),
        (Some(text), count) => format!("{}  ({count} siblings)", value::preview(text, change.encoding)),
        (None, 0) => "deleted".to_owned(),
        (None, count) => format!("{count} siblings, none is chosen"),
    };
    let time = print::time(change.unix_ms);
    Ok(print::visible(&format!("{time}  {}  {}  {what}", change.sequence, change.key)).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line_whatever_is_in_it() {
        let change = |rest: &str| {
            line("", &format!(r#"{{"sequence": 7, "unix_ms": 1000, "key": "a/b", {rest}}}"#))
                .expect("readable")
        };
        let at = "1970-01-01T00:00:01.000Z  7  a/b  ";
        assert_eq!(
            change(r#""value": "x\ny\u001b", "encoding": "text", "siblings": 1"#),
            format!("{at}x\u{fffd}y\u{fffd}")
        );
        assert_eq!(change(r#""value": null, "encoding": null, "siblings": 0"#), format!("{at}deleted"));
        assert_eq!(
            change(r#""value": null, "encoding": null, "siblings": 2"#),
            format!("{at}2 siblings, none is chosen")
        );
        assert_eq!(
            line("gap", r#"{"after": 3}"#).expect("readable"),
            "changes after number 3 are no longer kept; it goes on with younger ones"
        );
    }
}
