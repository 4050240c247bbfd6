//! Join tokens: a CA's word that whoever holds one may have a certificate for one name, once, for a while.
//!
//! A token is one line, `shoal1.` and base64url: claims (JSON), the CA's signature over them, and a secret key whose
//! public half is in the claims. A joiner shows claims and signature, and proves that it has the secret by signing its
//! request with it; the secret itself never leaves the joiner. So whoever it mistook for the CA can use what it
//! was shown for nothing else. The claims also say by which CAs' fingerprints the joiner knows the mesh.
//!
//! Whether a token was used before is for the ledger to say ([`super::Authority`]).

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::{Ca, CertError, key};
use crate::core::ids::{MeshName, NodeId};
use crate::core::limits;

/// What every token of this form begins with.
pub const TOKEN_PREFIX: &str = "shoal1.";
/// What the CA's signature is for: with it in front, the signed text is no certificate and no revocation list.
const SIGNED_AS: &[u8] = b"shoal join token 1\0";
const SECRET_BYTES: usize = 32;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The mesh to join.
    pub mesh: MeshName,
    /// The only name that a certificate is given for.
    pub node_id: NodeId,
    /// The last second at which the token is good, since 1970.
    pub expires: u64,
    /// How long the certificate is to be valid, in days.
    pub days: u32,
    /// Public half of the token's secret (Ed25519), in base64url: what makes this token unlike any other.
    pub nonce: String,
    /// Fingerprints of the mesh's CAs, as [`super::Facts::fingerprint`] writes them.
    pub cas: Vec<String>,
}

/// A token as its holder has it. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    claims: Claims,
    /// The claims as they were signed.
    signed: String,
    signature: Vec<u8>,
    secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("claims", &self.claims).finish_non_exhaustive()
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another form, or cut short.
    #[error(
        "this is no join token of this version of Shoal: take the whole line that `shoal cert token` printed"
    )]
    Form,
    /// Too long for one.
    #[error("this is no join token: it has more than {} characters", limits::JOIN_TOKEN_CHARS_MAX)]
    Long,
}

impl JoinToken {
    /// A new token for `node`, good from `now` on for `ttl`, for a certificate of `days` days.
    ///
    /// # Errors
    /// [`CertError`]: `ttl` out of bounds, a CA that does not live as long as the certificate would, no random numbers.
    pub fn new(ca: &Ca, node: &NodeId, now: SystemTime, ttl: Duration, days: u32) -> Result<Self, CertError> {
        if ttl < Duration::from_secs(1) || ttl > limits::JOIN_TOKEN_TTL_MAX {
            return Err(CertError::TokenTtl);
        }
        ca.outlives(&super::Validity::starting(now + ttl, days)?)?;
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(CertError::crypto)?;
        let claims = Claims {
            mesh: ca.mesh().clone(),
            node_id: node.clone(),
            expires: unix(now + ttl),
            days,
            nonce: URL_SAFE_NO_PAD.encode(key_of(&secret)?.public_key().as_ref()),
            cas: ca.fingerprints()?,
        };
        let signed = serde_json::to_string(&claims).map_err(|why| CertError::malformed("token", why))?;
        let signature = key::sign(ca.key(), &to_sign(&signed))?;
        Ok(Self { claims, signed, signature, secret })
    }

    /// Reads a token. Nothing is verified: the joiner has nothing to verify it with.
    ///
    /// # Errors
    /// [`TokenError`], which never holds a piece of the text.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > limits::JOIN_TOKEN_CHARS_MAX {
            return Err(TokenError::Long);
        }
        let bytes = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(TokenError::Form)?;
        let bytes = URL_SAFE_NO_PAD.decode(bytes).map_err(|_| TokenError::Form)?;
        let (secret, rest) = bytes.split_first_chunk().ok_or(TokenError::Form)?;
        let (length, rest) = rest.split_first_chunk().ok_or(TokenError::Form)?;
        let (signed, signature) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(TokenError::Form)?;
        let signed = String::from_utf8(signed.to_vec()).map_err(|_| TokenError::Form)?;
        let claims: Claims = serde_json::from_str(&signed).map_err(|_| TokenError::Form)?;
        let public = key_of(secret).map_err(|_| TokenError::Form)?;
        if signature.is_empty() || claims.nonce != URL_SAFE_NO_PAD.encode(public.public_key().as_ref()) {
            return Err(TokenError::Form);
        }
        Ok(Self { claims, signed, signature: signature.to_vec(), secret: *secret })
    }

    /// The token in one line: a secret, for the one machine that it is made for.
    ///
    /// # Errors
    /// [`CertError`] for claims that are too long for a token.
    pub fn text(&self) -> Result<String, CertError> {
        let too_long = || CertError::malformed("token", "its claims are too long");
        let length = u16::try_from(self.signed.len()).map_err(|_| too_long())?;
        let mut bytes = self.secret.to_vec();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(self.signed.as_bytes());
        bytes.extend_from_slice(&self.signature);
        let text = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        if text.len() > limits::JOIN_TOKEN_CHARS_MAX { Err(too_long()) } else { Ok(text) }
    }

    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What a joiner shows of it.
    #[must_use]
    pub fn shown(&self) -> ShownToken {
        ShownToken { claims: self.signed.clone(), signature: URL_SAFE_NO_PAD.encode(&self.signature) }
    }

    /// Proves by a signature over `message` that the secret is here.
    ///
    /// # Errors
    /// [`CertError::Crypto`].
    pub fn prove(&self, message: &[u8]) -> Result<Vec<u8>, CertError> {
        Ok(key_of(&self.secret)?.sign(message).as_ref().to_vec())
    }
}

/// What a joiner shows of its token: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownToken {
    /// The claims, as they were signed (JSON).
    claims: String,
    /// The CA's signature, in base64url.
    signature: String,
}

impl ShownToken {
    /// The claims, if the key of `ca` has signed them; nothing else is looked at.
    #[must_use]
    pub fn claims_by(&self, ca: &Ca) -> Option<Claims> {
        let signature = URL_SAFE_NO_PAD.decode(&self.signature).ok()?;
        if !key::verifies(ca.key(), &to_sign(&self.claims), &signature) {
            return None;
        }
        serde_json::from_str(&self.claims).ok()
    }

    /// The claims, whoever signed them: to say what is wrong, never to act on.
    #[must_use]
    pub fn unproven_claims(&self) -> Option<Claims> {
        serde_json::from_str(&self.claims).ok()
    }
}

impl Claims {
    /// Whether the token is past its time.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        unix(now) > self.expires
    }

    /// Whether the holder of the token's secret made `proof` over `message`.
    #[must_use]
    pub fn is_proven_by(&self, message: &[u8], proof: &[u8]) -> bool {
        let Ok(public) = URL_SAFE_NO_PAD.decode(&self.nonce) else {
            return false;
        };
        UnparsedPublicKey::new(&ED25519, public).verify(message, proof).is_ok()
    }
}

fn to_sign(claims: &str) -> Vec<u8> {
    [SIGNED_AS, claims.as_bytes()].concat()
}

fn key_of(secret: &[u8; SECRET_BYTES]) -> Result<Ed25519KeyPair, CertError> {
    Ed25519KeyPair::from_seed_unchecked(secret).map_err(CertError::crypto)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::certs::{Validity, make_ca};

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn ca() -> Ca {
        let mesh = MeshName::new("prod").expect("valid");
        let pair = make_ca(&mesh, Validity::starting(now(), 100).expect("valid")).expect("made");
        Ca::from_pem(&pair.cert_pem, &pair.key_pem).expect("a CA")
    }

    fn token(ca: &Ca) -> JoinToken {
        JoinToken::new(ca, &NodeId::new("node-1").expect("valid"), now(), HOUR, 30).expect("made")
    }

    #[test]
    fn a_token_is_one_line_and_is_read_back_as_it_was_made() {
        let ca = ca();
        let token = token(&ca);
        let text = token.text().expect("short");
        assert!(text.starts_with("shoal1.") && !text.contains(char::is_whitespace), "{text}");
        assert!(text.len() < 1000, "{} characters", text.len());
        assert_eq!(JoinToken::parse(&format!("{text}\n")), Ok(token.clone()));
        assert_eq!(token.shown().claims_by(&ca).as_ref(), Some(token.claims()));
        assert_eq!(token.claims().cas, ca.fingerprints().expect("read"));
    }

    #[test]
    fn no_two_tokens_are_alike_and_none_shows_its_secret() {
        let ca = ca();
        let (one, other) = (token(&ca), token(&ca));
        assert_ne!(one.claims().nonce, other.claims().nonce);
        let secret = URL_SAFE_NO_PAD.encode(one.secret);
        let shown = serde_json::to_string(&one.shown()).expect("JSON");
        assert!(!shown.contains(&secret) && !format!("{one:?}").contains("secret"), "{one:?}");
    }

    #[test]
    fn only_the_secret_proves_and_only_its_own_message() {
        let ca = ca();
        let (one, other) = (token(&ca), token(&ca));
        let proof = one.prove(b"message").expect("signed");
        assert!(one.claims().is_proven_by(b"message", &proof));
        assert!(!one.claims().is_proven_by(b"another", &proof));
        assert!(!other.claims().is_proven_by(b"message", &proof));
        assert!(!one.claims().is_proven_by(b"message", b""));
    }

    #[test]
    fn a_changed_claim_or_another_ca_is_not_vouched_for() {
        let ca = ca();
        let shown = token(&ca).shown();
        assert_eq!(shown.claims_by(&self::ca()), None);
        let mut changed = shown.clone();
        changed.claims = changed.claims.replace("node-1", "node-2");
        assert_eq!(changed.claims_by(&ca), None);
        assert_eq!(changed.unproven_claims().expect("readable").node_id.as_str(), "node-2");
        let mut unsigned = shown;
        unsigned.signature.clear();
        assert_eq!(unsigned.claims_by(&ca), None);
    }

    #[test]
    fn a_text_that_is_cut_changed_or_no_token_is_refused_without_being_repeated() {
        let text = token(&ca()).text().expect("short");
        for end in [0, 6, 7, 20, 50, 60, 200] {
            let cut = &text[..end];
            let error = JoinToken::parse(cut).expect_err("cut").to_string();
            assert!(cut.len() < 8 || !error.contains(cut), "{error}");
        }
        assert!(JoinToken::parse(&text.replacen("shoal1.", "shoal2.", 1)).is_err());
        assert!(JoinToken::parse(&text.replacen("shoal1.", "", 1)).is_err());
        // The secret is not that of the claims.
        assert!(JoinToken::parse(&text.replacen("shoal1.", "shoal1.AAAA", 1)).is_err());
        assert_eq!(JoinToken::parse(&"x".repeat(limits::JOIN_TOKEN_CHARS_MAX + 1)), Err(TokenError::Long));
    }

    #[test]
    fn a_token_is_good_for_a_bounded_time_and_not_longer_than_its_ca() {
        let ca = ca();
        let node = NodeId::new("node-1").expect("valid");
        for ttl in [Duration::ZERO, limits::JOIN_TOKEN_TTL_MAX + HOUR] {
            assert!(matches!(JoinToken::new(&ca, &node, now(), ttl, 1), Err(CertError::TokenTtl)));
        }
        let error = JoinToken::new(&ca, &node, now(), HOUR, 100).expect_err("longer than the CA");
        assert!(matches!(error, CertError::OutlivesCa { .. }), "{error}");
        let claims = token(&ca).claims().clone();
        assert!(!claims.is_expired(now() + HOUR));
        assert!(claims.is_expired(now() + HOUR + Duration::from_secs(1)));
    }
}
