// Package rooms has no code: its test enforces the table of imports in
// ARCHITECTURE.md.
package rooms
