//! The model side of the seam.
