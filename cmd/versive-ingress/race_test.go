//go:build race

package main

// memoryFactor is how many times the memory the race detector may take.
const memoryFactor = 3
