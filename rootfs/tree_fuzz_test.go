package rootfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/inlay-dev/inlay/rootfs"

	"github.com/stretchr/testify/require"
)

// Whatever an archive holds, it comes to a tree that init can rely on, within the bounds
// of the root, or to an error that says what is wrong.
func FuzzTar(f *testing.F) {
	f.Add(pack(f, tar.Header{Name: "./"}, tar.Header{Name: "a/b", Size: 3}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../x"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "a/b"}))
	f.Add(pack(f, tar.Header{Name: "../a"}, tar.Header{Name: "dev/null", Typeflag: tar.TypeChar}, tar.Header{Name: "f", Typeflag: tar.TypeFifo}))
	f.Add(pack(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "l/x", Size: 1}))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		const size, inodes = 1 << 20, 64
		root := rootfs.TarAt(bytes.NewReader(archive), rootfs.Size(size), rootfs.Inodes(inodes))
		require.NoError(t, root.Validate())
		var contents bytes.Buffer
		tree, err := root.Read(context.Background(), &contents)
		if err != nil {
			var source *rootfs.SourceError
			require.ErrorAs(t, err, &source)
			require.False(t, errors.Is(err, io.EOF) && source.Path == "", "an end is no error of its own: %v", err)
			return
		}
		whole(t, tree, contents.Len())
		require.LessOrEqual(t, len(tree.Entries), inodes)
		require.LessOrEqual(t, contents.Len(), size)
	})
}
