//! TODO-skeleton json
