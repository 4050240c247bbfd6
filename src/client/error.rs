//! Why something could not be done.

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The mesh refused, or could not do it.
    #[error("{detail}")]
    Refused {
        /// The stable name of the reason, as `docs/http-api.md` lists them: `unknown_agent`, `overloaded`.
        code: String,
        /// One sentence: what failed, why, what to do.
        detail: String,
    },
    /// The API wants a token, or another one.
    #[error("{0}")]
    Unauthorized(String),
    /// What was asked for cannot be asked.
    #[error("{0}")]
    Usage(String),
    /// The API cannot be reached. A request may have been acted on nevertheless.
    #[error("{0}")]
    Unreachable(String),
    /// What answers is no API of this version.
    #[error("{0}")]
    Stranger(String),
    /// A stream has ended: the node was stopped or cannot be reached any more.
    #[error("{0}")]
    Gone(String),
    /// There was no answer in time. The request may still be acted on.
    #[error("{0}")]
    TimedOut(String),
}

impl ClientError {
    /// The stable name of the reason, of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            Self::Unauthorized(_)
            | Self::Usage(_)
            | Self::Unreachable(_)
            | Self::Stranger(_)
            | Self::Gone(_)
            | Self::TimedOut(_) => None,
        }
    }
}
