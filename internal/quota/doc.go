// Package quota limits what a folder of a disk holds, by a project quota of its
// own: ext4 and XFS keep them, where they are mounted with prjquota, quotactl(2).
package quota
