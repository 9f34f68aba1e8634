//! The tests of the facade in one program, a module for each subject.

mod connect;
mod guarantees;
mod own_backend;
