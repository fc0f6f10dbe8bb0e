package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBits(t *testing.T) {
	for text, want := range map[string]uint64{
		"20mbit": 20_000_000, "1gbit": 1_000_000_000, "500kbit": 500_000, "1.5mbit": 1_500_000, "64000": 64_000, "64000bit": 64_000,
		"1mbps": 8_000_000, "1mibit": 1 << 20, "2kibps": 16 << 10, "1Gbit": 1_000_000_000, "3m": 3_000_000,
	} {
		n, err := bits(text)
		require.NoError(t, err, text)
		require.Equal(t, want, n, text)
	}
	for _, text := range []string{"", "mbit", "-1mbit", "20mb", "1xbit", "0", "1ibit", "nan", "inf", "9999999999gbit", "1 mbit"} {
		_, err := bits(text)
		require.Error(t, err, text)
	}
}
