//! What the integration examples share.
