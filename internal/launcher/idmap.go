package launcher

// IDMap is one line of a uid_map or gid_map file.
type IDMap struct{ Inside, Outside, Size uint32 }
