//! Commands of the operator's that answer questions of this node: the question on standard input, the answer on standard
//! output, a bounded time.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Runs a command without arguments and returns what it has written, at most `answer_bytes_max` bytes of text.
///
/// # Errors
/// Why there is no answer, in one sentence; a command that takes longer than `deadline` is killed.
pub(super) async fn ask(
    command: &str,
    question: &[u8],
    answer_bytes_max: u64,
    deadline: Duration,
) -> Result<String, String> {
    let told = timeout(deadline, run(command, question, answer_bytes_max)).await;
    told.unwrap_or_else(|_| Err(format!("{command} took longer than {deadline:?}")))
}

async fn run(command: &str, question: &[u8], answer_bytes_max: u64) -> Result<String, String> {
    let failed = |what: &str, error: &std::io::Error| format!("{command} {what}: {error}");
    let mut child = Command::new(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("could not be started", &error))?;
    let stdin = child.stdin.take();
    let ask = async move {
        if let Some(mut stdin) = stdin {
            // A command that does not look at the question may still answer.
            let _ = stdin.write_all(question).await;
        }
    };
    let stdout = child.stdout.take();
    let hear = async move {
        let mut answer = String::new();
        match stdout {
            Some(stdout) => stdout.take(answer_bytes_max).read_to_string(&mut answer).await.map(|_| answer),
            None => Ok(answer),
        }
    };
    let ((), answer) = tokio::join!(ask, hear);
    let answer = answer.map_err(|error| failed("could not be read", &error))?;
    let status = child.wait().await.map_err(|error| failed("could not be waited for", &error))?;
    if !status.success() {
        return Err(format!("{command} failed: {status}"));
    }
    Ok(answer)
}
