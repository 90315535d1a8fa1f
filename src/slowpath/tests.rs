//! Punts in, packets out.
