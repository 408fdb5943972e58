//! TODO-skeleton bev
