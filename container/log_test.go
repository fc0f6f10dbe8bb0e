package container

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// counting is a handler that waits for a word before the first record.
type counting struct {
	slog.Handler
	began, on chan struct{}
	messages  *[]string
	lost      *int64
}

func (h counting) Enabled(context.Context, slog.Level) bool { return true }

func (h counting) Handle(_ context.Context, r slog.Record) error {
	if len(*h.messages) == 0 {
		close(h.began)
		<-h.on
	}
	*h.messages = append(*h.messages, r.Message)
	r.Attrs(func(a slog.Attr) bool { *h.lost += a.Value.Int64(); return true })
	return nil
}

// written waits until all is.
func written(j *journal) {
	j.mu.Lock()
	done := j.done
	j.mu.Unlock()
	if done != nil {
		<-done
	}
}

// Behind a handler that blocks 1,024 records wait; how many more there were is said.
func TestJournalIsBounded(t *testing.T) {
	var messages []string
	var lost int64
	h := counting{nil, make(chan struct{}), make(chan struct{}), &messages, &lost}
	j := &journal{handler: h}
	j.add(slog.LevelInfo, "first")
	<-h.began // the queue is empty again
	for range maxRecords + 7 {
		j.add(slog.LevelInfo, "more")
	}
	close(h.on)
	written(j)
	require.Len(t, messages, 1+maxRecords+1)
	require.Equal(t, "first", messages[0])
	require.Equal(t, "records left out", messages[len(messages)-1])
	require.EqualValues(t, 7, lost)
	// Its goroutine has ended; the next record has another.
	j.mu.Lock()
	require.Nil(t, j.done)
	j.mu.Unlock()
	j.add(slog.LevelInfo, "next")
	written(j)
	j.flush() // nothing to wait for
	require.Equal(t, "next", messages[len(messages)-1])
}
